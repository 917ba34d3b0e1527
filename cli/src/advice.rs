//! Advice that works as it is pasted.
//!
//! Errors and notes name commands (`` `quorate job why JOB` ``), and many come from the node, which does not know how
//! it was found. Given `--node` or `--dir`, the same command without them asks another node or none; so they are added
//! to each command that is named. What the environment says (`$QUORATE_NODE`) is there for the next command anyway.

use std::path::Path;

use super::args::Common;
use super::find::NodeChoice;
use super::output::Text;

/// Completes every command between backticks that asks a node or a testnet.
pub fn complete(common: &Common, text: &Text) -> Text {
    let mut lines = Vec::new();
    for line in text.as_str().lines() {
        let mut out = String::new();
        for (position, part) in line.split('`').enumerate() {
            if position > 0 {
                out.push('`');
            }
            out.push_str(part);
            // Every second part stands between two backticks, if each is closed.
            if position % 2 == 1 {
                out.push_str(&options_of(common, part));
            }
        }
        lines.push(out);
    }
    Text::lines(lines)
}

/// A command that is printed alone, to be typed as it stands.
pub fn command(common: &Common, command: &str) -> String {
    format!("{command}{}", options_of(common, command))
}

/// The options that a command lacks, with a space before each.
fn options_of(common: &Common, command: &str) -> String {
    let mut words = command.split_whitespace();
    let (Some("quorate"), Some(name)) = (words.next(), words.next()) else { return String::new() };
    let names = |option: &str| command.split_whitespace().any(|word| word == option);
    let is_about_nodes = match name {
        // These act on a folder of their own, or on none.
        "init" | "node" | "demo" | "receipt" | "--help" | "--version" => return String::new(),
        "testnet" | "bench" => false,
        _ => true,
    };
    let mut options = String::new();
    if let Some(choice) = common.node.as_ref().filter(|_| is_about_nodes && !names("--node")) {
        let choice = match choice {
            NodeChoice::Url(url) => shell_word(url),
            NodeChoice::Index(index) => index.to_string(),
        };
        options.push_str(&format!(" --node {choice}"));
    }
    if let Some(dir) = common.dir.as_ref().filter(|_| !names("--dir")) {
        options.push_str(&format!(" --dir {}", shell_path(dir)));
    }
    options
}

/// A path as a shell reads it.
pub fn shell_path(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

/// One word of a command line, in quotes if it needs them.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:,=@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(common: &Common, text: &str) -> String {
        complete(common, &text.into()).as_str().to_owned()
    }

    #[test]
    fn commands_in_advice_ask_the_node_that_was_asked() {
        let common = Common { node: Some(NodeChoice::Index(3)), dir: Some("/tmp/my net".into()), ..Common::default() };
        assert_eq!(
            completed(&common, "see `quorate job why J`, then `quorate testnet heal`; `--node 4` or `quorate init`"),
            "see `quorate job why J --node 3 --dir '/tmp/my net'`, then `quorate testnet heal --dir '/tmp/my net'`; \
             `--node 4` or `quorate init`"
        );
        assert_eq!(completed(&common, "`quorate peers --node 1`"), "`quorate peers --node 1 --dir '/tmp/my net'`");
        let url = Common { node: Some(NodeChoice::Url("http://127.0.0.1:9".into())), ..Common::default() };
        assert_eq!(completed(&url, "`quorate peers` says"), "`quorate peers --node http://127.0.0.1:9` says");
        assert_eq!(completed(&Common::default(), "`quorate peers` says"), "`quorate peers` says");
        assert_eq!(completed(&url, "an open ` stays, `quorate x"), "an open ` stays, `quorate x");
    }

    #[test]
    fn words_survive_a_shell() {
        for word in ["plain", "two words", "it's", "", "$HOME", "a;b", "~/x", "a\\b"] {
            let line = format!("printf %s {}", shell_word(word));
            let printed = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(printed.stdout).unwrap(), word, "{line}");
        }
    }
}
