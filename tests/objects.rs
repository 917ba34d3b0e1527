//! Objects through the front door: who keeps what, what jobs need, what cannot be read, and a disk that is lost.

mod support;

use serde_json::Value;
use support::{Net, content, wait};

const KIB: usize = 1024;

fn object_of(put: &Value) -> String {
    put["object"].as_str().expect("a put names its object").to_owned()
}

fn names(claims: &Value) -> Vec<&str> {
    claims.as_array().expect("claims").iter().filter_map(|claim| claim["name"].as_str()).collect()
}

fn peer(net: &Net, index: usize) -> String {
    net.testnet.peer_id(index).unwrap().to_string()
}

/// The nodes that hold columns of an object, in order of the columns.
fn holders(net: &Net, asked: usize, object: &str) -> Vec<usize> {
    let shown = net.at(asked, &["object", "show", object, "--json"]).json();
    let columns = shown["columns"].as_array().unwrap().iter();
    columns
        .map(|column| net.testnet.index_of(column["holder"].as_str()?.parse().unwrap()))
        .map(Option::unwrap)
        .collect()
}

/// Goal: equal bytes are one object, which lives as long as its last claim; whoever removes one is told who keeps it,
/// and nobody removes what others keep, or what a live job needs, without knowing. Method: two owners, two names, a
/// third node, a trigger in another quorum.
#[test]
fn an_object_lives_as_long_as_its_last_claim_and_what_needs_it() {
    let net = Net::up(5);
    let (a, b) = (net.file("a.txt", 30 * KIB, 1), net.file("b.txt", 30 * KIB, 1));
    let first = net.put(1, &a);
    let (object, quorum) = (object_of(&first), first["quorum"].as_str().unwrap().to_owned());
    assert_eq!(first["existed"].as_array().unwrap().len(), 0, "{first}");
    let put = |node, file: &std::path::Path| {
        let put = net.at(node, &["object", "put", file.to_str().unwrap(), "--quorum", &quorum, "--json"]).json();
        assert_eq!(object_of(&put), object, "equal bytes are one object");
        put
    };
    assert_eq!(names(&put(1, &b)["existed"]), ["a.txt"]);
    let third = put(3, &b);
    assert_eq!(names(&third["existed"]), ["a.txt", "b.txt"], "{third}");
    let again = net.at(1, &["object", "put", a.to_str().unwrap(), "--quorum", &quorum]).ok().stdout;
    assert!(again.contains("was there") && again.contains("\"a.txt\""), "{again}");
    let listed = net.at(5, &["object", "ls"]).ok().stdout;
    assert!(listed.contains("a.txt, b.txt (2 owners)"), "{listed}");
    let shown = net.at(4, &["object", "show", &object, "--json"]).json();
    assert_eq!(names(&shown["claims"]), ["a.txt", "b.txt", "b.txt"], "{shown}");

    // One of several names, said which; then the other.
    net.at(1, &["object", "rm", &object]).fails(1, &["2 names", "a.txt", "b.txt", "--name"]);
    let removed = net.at(1, &["object", "rm", &object, "--name", "a.txt", "--json"]).json();
    assert_eq!((names(&removed["removed"]), names(&removed["kept"])), (vec!["a.txt"], vec!["b.txt", "b.txt"]));
    assert_eq!(removed["gone"], false);
    // Whoever has no claim is not asked in a pipe, and told whom it would take from.
    net.at(5, &["object", "rm", &object]).fails(1, &["--yes", "node-1 (", "node-3 ("]);
    let told = net.at(1, &["object", "rm", &object]).ok().stdout;
    assert!(told.contains("stays readable") && told.contains("node-3 ("), "{told}");
    net.at(1, &["object", "rm", &object]).fails(1, &["--yes", "node-3 ("]);
    assert!(net.read(5, &object) == content(30 * KIB, 1), "the other owner's object");
    let told = net.at(3, &["object", "rm", &object]).ok().stdout;
    assert!(told.starts_with(&format!("removed {object}")), "{told}");
    net.at(3, &["object", "get", &object, "-o", "/dev/null"]).fails(1, &["no object"]);

    // The module of a trigger that lives in another quorum.
    let module = net.dir.path().join("every.wat");
    let text = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";
    std::fs::write(&module, text).unwrap();
    let module = object_of(&net.put(2, &module));
    let spec = net.dir.path().join("nightly.toml");
    let lines = [
        "name = \"nightly\"",
        "engine = \"wasm\"",
        "output = \"inline\"",
        &format!("module = {{ object = \"{module}\" }}"),
        "quorum = { dedicated = true }",
        "[trigger]",
        "every = \"1d\"",
    ];
    std::fs::write(&spec, lines.join("\n")).unwrap();
    let job = net.at(4, &["job", "submit", spec.to_str().unwrap(), "--detach"]).ok().stdout.trim().to_owned();
    assert_ne!(job.split('.').next(), module.split('.').next(), "a quorum of its own");
    let needed = ["in use", "module of trigger", &job, "nightly", "--force"];
    wait("the node to know the trigger's quorum", || {
        (net.at(2, &["quorum", "ls"]).stdout.contains(&job[..8])).then_some(())
    });
    net.at(2, &["object", "rm", &module]).fails(1, &needed);
    // An operator insists on somebody else's, but for what is needed.
    net.at(5, &["object", "rm", &module, "--yes"]).fails(1, &needed);
    net.at(4, &["job", "cancel", &job]).ok();
    let gone = net.at(5, &["object", "rm", &module, "--yes", "--json"]).json();
    assert_eq!((gone["gone"].as_bool(), names(&gone["removed"])), (Some(true), vec!["every.wat"]), "{gone}");
}

/// Goal: a get that cannot succeed says before its first byte how many holders are missing and which, and works again
/// when they are back; empty objects have the ranges of RFC 9110.
#[test]
fn a_get_without_enough_holders_names_those_that_are_missing() {
    let net = Net::up(5);
    let bytes = 300 * KIB;
    let object = object_of(&net.put(1, &net.file("data", bytes, 2)));
    let empty = object_of(&net.put(1, &net.file("empty", 0, 3)));
    let out = net.dir.path().join("out");
    let out = out.to_str().unwrap();
    for range in ["0-0", "0-", "-0", "0-18446744073709551615"] {
        net.at(2, &["object", "get", &empty, "--range", range, "-o", out]).fails(1, &["range"]);
    }
    net.at(2, &["object", "get", &empty, "--range", "-5", "-o", out]).ok();
    assert_eq!(std::fs::read(out).unwrap(), b"");
    net.at(2, &["object", "get", &object, "--range", "7-18446744073709551615", "-o", out]).ok();
    assert!(std::fs::read(out).unwrap() == content(bytes, 2)[7..], "to the end");

    // 3+2 on five nodes: each holds one, and two are left. One of them is a member of the quorum, who knows the object.
    let quorum = net.at(1, &["quorum", "show", &object[..32], "--json"]).json();
    let reader = net.testnet.index_of(quorum["members"][0].as_str().unwrap().parse().unwrap()).unwrap();
    let killed: Vec<usize> =
        holders(&net, reader, &object).into_iter().filter(|node| *node != reader).take(3).collect();
    for node in &killed {
        net.testnet.kill(*node).unwrap();
    }
    let missing: Vec<String> = killed.iter().map(|node| peer(&net, *node)).collect();
    let path = format!("/v1/objects/{object}/content");
    for range in [None, Some("bytes=1-"), Some("bytes=-300000")] {
        let (status, text) = net.runtime.block_on(async {
            let mut request = net.client(reader).request(reqwest::Method::GET, &path);
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        });
        assert_eq!(status, 503, "{range:?}: {text}");
        assert!(text.contains("2 of 3 needed holders answer"), "{range:?}: {text}");
        assert!(missing.iter().all(|peer| text.contains(peer)), "{range:?}: {text}");
    }
    let _ = std::fs::remove_file(out);
    net.at(reader, &["object", "get", &object, "-o", out])
        .fails(1, &["2 of 3 needed holders answer", &format!("node-{} (", killed[0])]);
    assert!(!std::path::Path::new(out).exists(), "a failed get leaves no file");
    net.restart(killed[0]);
    wait("the object to be readable again", || {
        (net.at(reader, &["object", "get", &object, "-o", out]).code == 0).then_some(())
    });
    assert!(std::fs::read(out).unwrap() == content(bytes, 2));
}

/// Goal: pieces of a disk that was lost are rebuilt soon after its node is back, though nobody reads them and its key
/// was kept. Method: a holder loses all but the files of its identity.
#[test]
fn pieces_of_a_lost_disk_are_rebuilt_without_anybody_reading_them() {
    let net = Net::with(5, |options| options.settings.push(("objects.repair_interval".to_owned(), "1s".into())));
    let object = object_of(&net.put(1, &net.file("data", 300 * KIB, 4)));
    let column = |index: usize| net.at(1, &["object", "show", &object, "--json"]).json()["columns"][index].clone();
    let confirmed = |index: usize| {
        let found = column(index);
        (found["state"] == "confirmed").then_some(found)
    };
    let index = (0..5).find(|index| holders(&net, 1, &object)[*index] != 1).unwrap();
    let before = wait("the column to be confirmed", || confirmed(index));
    let holder = holders(&net, 1, &object)[index];
    net.testnet.kill(holder).unwrap();
    for entry in std::fs::read_dir(net.testnet.node_dir(holder)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    net.restart(holder);
    wait("the column to be rebuilt", || {
        confirmed(index).filter(|now| now["attempt"].as_u64() > before["attempt"].as_u64()).map(drop)
    });
    assert!(net.read(holder, &object) == content(300 * KIB, 4));
}

/// Goal: whoever holds the key file reads a sealed object, and nobody else reads anything of it. Method: a real
/// network, the object got with the key, without it, and with another one; the same file again; a pipe.
#[test]
fn a_sealed_object_is_read_with_its_key_alone() {
    let net = Net::up(3);
    let file = net.file("secret", 3 << 20, 9);
    let path = |name: &str| net.dir.path().join(name).to_str().unwrap().to_owned();
    let (source, key, out) = (path("secret"), path("mine.key"), path("out"));
    let ran = net.at(1, &["object", "put", &source, "--encrypt", &key, "--json"]).ok();
    assert!(ran.stderr.contains("without it nobody reads the object again"), "{}", ran.stderr);
    let put = ran.json();
    let object = put["object"].as_str().unwrap();
    net.at(2, &["object", "get", object, "-o", &out, "--decrypt", &key]).ok();
    let content = std::fs::read(&file).unwrap();
    assert!(std::fs::read(&out).unwrap() == content, "it came back changed");
    net.at(2, &["object", "get", object, "-o", &out]).ok();
    let stored = std::fs::read(&out).unwrap();
    assert!(!stored.windows(64).any(|window| window == &content[..64]), "the content can be read");
    std::fs::write(path("other.key"), "11".repeat(32)).unwrap();
    std::fs::remove_file(&out).unwrap();
    let other = path("other.key");
    net.at(2, &["object", "get", object, "-o", &out, "--decrypt", &other]).fails(1, &["changed since", "key file"]);
    assert!(!std::path::Path::new(&out).exists(), "no part of it is left");
    let again = net.at(3, &["object", "put", &source, "--encrypt", &key, "--json"]).json();
    assert_eq!(again["object"].as_str(), Some(object), "the same file under the same key");
    net.at(1, &["object", "put", &path("nowhere"), "--encrypt", &path("unused.key")]).fails(1, &["nowhere"]);
    assert!(!std::path::Path::new(&path("unused.key")).exists());
}
