//! `object rm`: gives up claims, says whose they were and who keeps the object, and asks before it takes those of
//! others.

use std::io::{IsTerminal, Write};

use quorate_api::{Claim, NodeInfo, ObjectInfo, RemovalInfo};
use quorate_protocols::ids::PeerId;
use quorate_testnet::Client;
use reqwest::Method;

use super::args::{Common, RmArgs};
use super::failure::Failure;
use super::ids::Ids;
use super::output::{Text, instant, print, print_json};

pub async fn run(common: &Common, client: &Client, args: RmArgs) -> Result<(), Failure> {
    let object = args.object.clone().resolve(client).await?;
    let path = format!("/v1/objects/{object}");
    let info: ObjectInfo = client.get(&path).await?;
    let node: NodeInfo = client.get("/v1/node").await?;
    let owner = match args.owner.clone() {
        Some(owner) => Some(owner.resolve(client).await?),
        None => None,
    };
    let wanted = Wanted::of(&args, owner, &info.claims, node.peer);
    let others: Vec<&Claim> = wanted.taken(&args, &info.claims).filter(|claim| claim.owner != node.peer).collect();
    let ids = Ids::ask(common, client).await;
    if !others.is_empty() && !args.yes {
        confirm(&info, &others, &ids)?;
    }
    let mut query = vec![("force", args.force.to_string())];
    match wanted {
        Wanted::Everyone => query.push(("everyone", "true".to_owned())),
        Wanted::Of(owner) => {
            query.push(("owner", owner.to_string()));
            query.push(("all", args.all.to_string()));
            query.extend(args.name.iter().map(|name| ("name", name.clone())));
        }
    }
    let response = client.send(client.request(Method::DELETE, &path).query(&query)).await?;
    let removed: RemovalInfo = response
        .json()
        .await
        .map_err(|error| Failure::failed(format!("the node's answer to a removal cannot be read: {error}")))?;
    match common.json {
        true => print_json(&removed),
        false => describe_removal(&removed, node.peer, &ids).into_iter().try_for_each(print),
    }
}

/// Whose claims are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Of(PeerId),
    Everyone,
}

impl Wanted {
    /// The node's own, unless others are named. Of an object on which it has none, those of everybody else: whoever
    /// removes it wants it gone.
    fn of(args: &RmArgs, owner: Option<PeerId>, claims: &[Claim], here: PeerId) -> Self {
        let own = claims.iter().any(|claim| claim.owner == here);
        match owner {
            Some(owner) => Self::Of(owner),
            None if args.everyone || !(own || args.all || args.name.is_some()) => Self::Everyone,
            None => Self::Of(here),
        }
    }
    /// The claims that this will take, as far as they are known now.
    fn taken<'a>(self, args: &'a RmArgs, claims: &'a [Claim]) -> impl Iterator<Item = &'a Claim> {
        let name = args.name.as_ref().map(|name| Some(name).filter(|name| !name.is_empty()));
        claims.iter().filter(move |claim| match self {
            Self::Everyone => true,
            Self::Of(owner) => claim.owner == owner && name.is_none_or(|name| claim.name.as_ref() == name),
        })
    }
}

/// Asks on the terminal whether claims of others are to be removed; without one, says how to insist.
fn confirm(info: &ObjectInfo, others: &[&Claim], ids: &Ids) -> Result<(), Failure> {
    let kept = others.iter().map(|claim| claim_text(claim, ids)).collect::<Vec<_>>().join("; ");
    let question = format!("others keep {}: {kept}", info.object);
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::failed(question)
            .hint("there is no terminal to ask on: add --yes to remove their claims, if you are an operator"));
    }
    let mut terminal = std::io::stderr().lock();
    let question = Text::from(question);
    let asked = write!(terminal, "{}\nRemove their claims? [y/N] ", question.as_str()).and_then(|()| terminal.flush());
    let mut answer = String::new();
    let answered = asked.and_then(|()| std::io::stdin().read_line(&mut answer));
    answered.map_err(|error| Failure::failed(format!("asking on the terminal: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was removed")),
    }
}

/// Under which name who keeps an object, and since when. Names are quoted: they may hold anything.
pub fn claim_text(claim: &Claim, ids: &Ids) -> String {
    let name = claim.name.as_ref().map_or_else(|| "without a name".to_owned(), |name| format!("{name:?}"));
    format!("{name} of {}, since {}", ids.sentence(&claim.owner.to_string()), instant(claim.claimed_at))
}

/// What became of it, for people: a line for each claim that was taken and for each that keeps the object.
fn describe_removal(info: &RemovalInfo, here: PeerId, ids: &Ids) -> Vec<String> {
    let whose = |claim: &Claim| if claim.owner == here { "your claim" } else { "the claim" };
    let mut lines = vec![match info.gone {
        true => format!("removed {}", info.object),
        false if info.removed.is_empty() => format!("nothing to remove: {} is kept by others", info.object),
        false => format!("claim removed, and {} stays readable for every peer", info.object),
    }];
    lines.extend(info.removed.iter().map(|claim| format!("  {} is gone: {}", whose(claim), claim_text(claim, ids))));
    lines.extend(info.kept.iter().map(|claim| format!("  it is kept by {}: {}", whose(claim), claim_text(claim, ids))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;
    use quorate_protocols::ids::{JobId, ManifestHash, Millis, ObjectId, QuorumId};

    fn claim(owner: u8, name: Option<&str>) -> Claim {
        let job = JobId { quorum: QuorumId([1; 16]), local: [3; 16] };
        Claim { owner: PeerId([owner; 32]), name: name.map(str::to_owned), job, claimed_at: Millis(0) }
    }

    fn args(line: &str) -> RmArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: RmArgs,
        }
        let words = format!("rm abababab {line}");
        <Line as clap::Parser>::try_parse_from(words.split_whitespace()).unwrap().args
    }

    /// Goal: nobody is asked about claims of its own, and everybody about those of others.
    #[test]
    fn only_claims_of_others_are_asked_about() {
        let claims = [claim(1, Some("a.txt")), claim(1, Some("b.txt")), claim(2, Some("a.txt"))];
        let others = |line: &str, here: u8| {
            let (args, here) = (args(line), PeerId([here; 32]));
            let owner = args.owner.clone().map(|owner| match owner {
                Reference::Whole(owner) => owner,
                Reference::Prefix(prefix) => panic!("{prefix} is not whole"),
            });
            let taken: Vec<_> = Wanted::of(&args, owner, &claims, here).taken(&args, &claims).collect();
            taken.iter().filter(|claim| claim.owner != here).count()
        };
        assert_eq!((others("", 1), others("--all", 1), others("--name b.txt", 1), others("", 2)), (0, 0, 0, 0));
        assert_eq!(others("--everyone", 1), 1);
        assert_eq!(others("", 9), 3, "who has none wants it gone");
        assert_eq!(others("--all", 9), 0, "who asks for its own has none");
        let owner = PeerId([1; 32]);
        assert_eq!(others(&format!("--owner {owner} --name a.txt"), 2), 1);
        assert_eq!(others(&format!("--owner {owner}"), 1), 0);
    }

    #[test]
    fn a_removal_says_whose_claim_went_and_who_keeps_the_object() {
        let object = ObjectId { quorum: QuorumId([1; 16]), manifest: ManifestHash([2; 32]) };
        let here = PeerId([1; 32]);
        let ids = Ids::new(&Common::default()).with_name(PeerId([2; 32]), Some("cellar".to_owned()));
        let removed = vec![claim(1, Some("a.txt"))];
        let kept = RemovalInfo { object, removed: removed.clone(), kept: vec![claim(2, None)], gone: false };
        let text = describe_removal(&kept, here, &ids).join("\n");
        assert!(text.starts_with(&format!("claim removed, and {object} stays readable")), "{text}");
        assert!(text.contains("your claim is gone: \"a.txt\" of"), "{text}");
        assert!(
            text.contains(&format!(
                "it is kept by the claim: without a name of cellar ({})",
                &PeerId([2; 32]).to_string()[8..16]
            )),
            "{text}"
        );
        let gone = RemovalInfo { object, removed, kept: vec![], gone: true };
        assert!(describe_removal(&gone, here, &ids)[0] == format!("removed {object}"));
    }
}
