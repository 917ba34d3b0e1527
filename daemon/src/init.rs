//! `init`: a data folder with an identity, the network's secret and a configuration that shows every default.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use quorate_cli::{Common, Failure, InitArgs, Text, default_node_dir, facts, print, print_json, shell_path};
use quorate_node::config::{self, Config};
use quorate_node::folder;
use quorate_node::identity::{self, JoinLine};
use quorate_node::seams::Clock;
use quorate_node::seams::clock::SystemClock;
use quorate_node::seams::entropy::OsEntropy;
use quorate_protocols::admission::Admission;
use quorate_protocols::ids::PeerId;

use super::admit;

pub fn run(common: &Common, args: &InitArgs) -> Result<(), Failure> {
    let dir = common.dir.clone().unwrap_or_else(default_node_dir);
    let join: Option<JoinLine> = args
        .join
        .as_deref()
        .map(|line| line.parse().map_err(|error| Failure::usage(format!("the join line is not usable: {error}"))))
        .transpose()?;
    folder::restrict_new_files();
    let config_file = dir.join(config::FILE_NAME);
    if config_file.exists() {
        // What `quorate node` would refuse is said here too, so that neither sends the user to the other.
        identity::check_whole(&dir, &OsEntropy).map_err(|error| Failure::of(&error))?;
        return Err(Failure::failed(format!("{} is set up already", dir.display())).hint(format!(
            "run it with `quorate node --dir {}`, or choose another folder with --dir",
            shell_path(&dir)
        )));
    }
    let mut config = Config::default();
    if let Some(listen) = args.listen {
        config.network.listen = listen;
    }
    for address in join.iter().flat_map(|join| &join.addresses) {
        config.network.bootstrap.push(
            address.parse().map_err(|error| Failure::usage(format!("the join line's address {address:?}: {error}")))?,
        );
    }
    config.network.authorities.extend(join.iter().flat_map(|join| join.authorities.iter().copied()));
    let secret = identity::load_or_create_secret(&dir, join.map(|join| join.secret), &OsEntropy)
        .map_err(|error| Failure::of(&error))?;
    let identity = identity::load_or_create(&dir, &OsEntropy).map_err(|error| Failure::of(&error))?;
    if args.authority {
        let key = identity::load_or_create_authority(&dir, &OsEntropy).map_err(|error| Failure::of(&error))?;
        config.network.authorities.insert(admit::public_key(&key));
        let admission = Admission::sign(&key, identity.peer(), SystemClock::new().wall().plus(admit::LASTS_MAX));
        identity::write_admission(&dir, &admission).map_err(|error| Failure::of(&error))?;
    }
    // Last: the folder counts as set up once its configuration is there.
    let draft = config_file.with_extension("toml.new");
    std::fs::write(&draft, config.to_toml())
        .and_then(|()| std::fs::rename(&draft, &config_file))
        .map_err(|error| Failure::failed(format!("writing {}: {error}", config_file.display())))?;
    let authorities: Vec<PeerId> = config.network.authorities.iter().copied().collect();
    let is_admitted = authorities.is_empty() || args.authority;
    let line = JoinLine { secret, addresses: vec![reachable(config.network.listen).to_string()], authorities };
    if common.json {
        return print_json(&serde_json::json!({
            "peer": identity.peer(),
            "join": line.to_string(),
            "authorities": line.authorities,
            "dir": dir.to_string_lossy(),
        }));
    }
    let made = facts(&[
        ("peer", identity.peer().to_string()),
        ("folder", dir.display().to_string()),
        ("settings", config_file.display().to_string()),
    ]);
    let mut next = vec![
        format!("Run it:          quorate node --dir {}", shell_path(&dir)),
        format!("Other machines:  quorate init --join {line}"),
    ];
    if !is_admitted {
        let peer = identity.peer();
        next.push(format!("Be admitted:     quorate admit {peer}   (where the authority's key is)"));
        next.push(format!("                 quorate admit --install LINE --dir {}   (here)", shell_path(&dir)));
    }
    let next = Text::lines(next);
    print(made.below(next).below("The join line holds the network's secret: whoever has it may join."))
}

/// The address that other machines should try: the one listened at, or for a wildcard the one from which this machine
/// would reach others.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    // Connecting a datagram socket sends nothing; it only picks the outgoing address. The target is a documentation
    // address.
    let outgoing = UdpSocket::bind(("0.0.0.0", 0))
        .and_then(|socket| socket.connect(("192.0.2.1", 9)).and_then(|()| socket.local_addr()))
        .map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip());
    SocketAddr::new(outgoing, listen.port())
}
