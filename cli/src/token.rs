//! `token mint|ls|revoke`: tokens of a node's API for others than its operator.

use quorate_api::{Listing, MintInfo, MintRequest, TokenInfo, Verb};

use super::args::{Common, TokenCommand};
use super::failure::Failure;
use super::find::client_of;
use super::output::{facts, instant, print, print_json, table};

pub async fn run(common: &Common, command: TokenCommand) -> Result<(), Failure> {
    let client = client_of(common)?;
    match command {
        TokenCommand::Mint { may, owner, lasts } => {
            let for_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            let minted: MintInfo = client.post("/v1/tokens", &MintRequest { owner, may, for_ms }).await?;
            if common.json {
                return print_json(&minted);
            }
            let MintInfo { info, secret } = minted;
            let made = facts(&[
                ("id", info.token.clone()),
                ("owner", info.owner.clone()),
                ("may", words(&info.may)),
                ("until", instant(info.expires_at)),
                ("token", secret),
            ]);
            print(made.below("It is shown this once. Whoever has it uses it as $QUORATE_TOKEN, or as a bearer token."))
        }
        TokenCommand::Ls => {
            let listing: Listing<TokenInfo> = client.list("/v1/tokens").await?;
            match common.json {
                true => print_json(&listing.items),
                false => print(tokens_table(&listing.items)),
            }
        }
        TokenCommand::Revoke { token } => {
            let info: TokenInfo = client.delete(&format!("/v1/tokens/{token}")).await?;
            match common.json {
                true => print_json(&info),
                false => print(format!("{} of {} opens nothing any more on this node", info.token, info.owner)),
            }
        }
    }
}

fn words(may: &[Verb]) -> String {
    may.iter().map(|verb| verb.name()).collect::<Vec<_>>().join(",")
}

fn tokens_table(tokens: &[TokenInfo]) -> super::Text {
    let rows = tokens.iter().map(|info| {
        let used = info.used_at.map_or_else(|| "-".to_owned(), instant);
        vec![info.token.clone(), info.owner.clone(), words(&info.may), instant(info.expires_at), used]
    });
    table(&["id", "owner", "may", "until", "last used"], rows)
}

#[cfg(test)]
mod tests {
    use quorate_protocols::ids::Millis;

    use super::*;

    #[test]
    fn tokens_are_listed_with_what_they_may_and_how_long() {
        let info = TokenInfo {
            token: "0123456789abcdef".to_owned(),
            owner: "alice\u{1b}[31m".to_owned(),
            may: vec![Verb::JobSubmit, Verb::ObjectRead],
            created_at: Millis(0),
            expires_at: Millis(86_400_000),
            used_at: None,
        };
        let text = tokens_table(&[info]);
        let lines: Vec<_> = text.as_str().lines().collect();
        assert!(lines[0].starts_with("ID") && lines[0].ends_with("LAST USED"), "{lines:?}");
        for word in ["0123456789abcdef", "alice\\u{1b}[31m", "job.submit,object.read", "1970-01-02T00:00:00Z", "-"] {
            assert!(lines[1].contains(word), "{word} is not in {lines:?}");
        }
    }
}
