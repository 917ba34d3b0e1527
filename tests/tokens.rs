//! Tokens for others than the operator, by the command line alone.

mod support;

use support::{Net, Ran, command};

/// Runs the binary as somebody who has a token and the address, and no data folder.
fn with_token(net: &Net, token: &str, arguments: &[&str]) -> Ran {
    let mut command = command();
    command.env("QUORATE_TOKEN", token).args(arguments).args(["--node", net.client(1).base()]);
    command.output().expect("the binary runs").into()
}

/// Goal: somebody with a token does what it is for and nothing else, until it is revoked, whatever happens to the node.
/// Method: a real node that is started again, and every step by the command line.
#[test]
fn a_token_does_what_it_was_minted_for_until_it_is_revoked() {
    let net = Net::up(3);
    let mint = ["token", "mint", "--may", "job.submit,job.read", "--owner", "nightly", "--for", "30d"];
    let told = net.at(1, &mint).ok().stdout;
    assert!(told.contains("nightly") && told.contains("job.read,job.submit"), "{told}");
    let minted = net.at(1, &[&mint[..], &["--json"]].concat()).json();
    let (id, secret) = (minted["token"].as_str().unwrap(), minted["secret"].as_str().unwrap());
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello.toml");

    let job = with_token(&net, secret, &["job", "submit", example, "--detach"]).ok().stdout.trim().to_owned();
    with_token(&net, secret, &["job", "wait", &job]).ok();
    assert!(!with_token(&net, secret, &["job", "output", &job]).ok().stdout.is_empty());
    with_token(&net, secret, &["job", "cancel", &job]).fails(1, &["job.control", "token mint"]);
    with_token(&net, secret, &["object", "ls"]).fails(1, &["object.read"]);
    with_token(&net, secret, &["token", "ls"]).fails(1, &["node.operate"]);
    with_token(&net, "wrong", &["job", "show", &job]).fails(1, &["bearer token"]);
    // It holds on the node that minted it alone.
    let mut elsewhere = command();
    elsewhere.env("QUORATE_TOKEN", secret).args(["job", "ls", "--node", net.client(2).base()]);
    Ran::from(elsewhere.output().expect("the binary runs")).fails(1, &["bearer token"]);

    let listed = net.at(1, &["token", "ls"]).ok().stdout;
    assert!(listed.contains(id) && !listed.contains(secret), "{listed}");
    net.restart(1);
    with_token(&net, secret, &["job", "show", &job]).ok();
    net.at(1, &["token", "revoke", id]).ok();
    with_token(&net, secret, &["job", "show", &job]).fails(1, &["bearer token"]);
    net.at(1, &["token", "revoke", id]).fails(1, &["token ls"]);
    net.restart(1);
    with_token(&net, secret, &["job", "show", &job]).fails(1, &["bearer token"]);

    let log = std::fs::read_to_string(net.testnet.node_dir(1).join("audit.log")).expect("it is written");
    let submit = log.lines().find(|line| line.contains("\"job.submit\"") && line.contains(&job));
    let submit = submit.unwrap_or_else(|| panic!("the submit is told of: {log}"));
    assert!(submit.contains(id) && submit.contains("nightly"), "{submit}");
    assert!(!log.contains(secret), "the log has no secrets");

    for (arguments, word) in [
        (&["token", "mint", "--may", "job.everything", "--owner", "x"][..], "job.submit"),
        (&["token", "mint", "--may", "node.operate", "--owner", "x"], "job.submit"),
    ] {
        net.at(1, arguments).fails(2, &[word]);
    }
    net.at(1, &["token", "mint", "--may", "job.read", "--owner", "x", "--for", "1s"]).fails(1, &["a minute to a year"]);
}
