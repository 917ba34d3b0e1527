//! Descriptions of the core's ids and numbers. The core knows of JSON what its ids look like as text, and nothing of
//! OpenAPI: a field whose type is the core's says here which description is its own, as in
//! `#[schema(value_type = schema::JobId)]`. The types below are for that alone; nothing has them for a value.

use quorate_protocols::ids;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// An id as text, by the pattern that it fits.
macro_rules! text {
    ($($name:ident: $pattern:expr;)*) => {$(
        pub enum $name {}

        impl utoipa::PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::String).pattern(Some($pattern)).into()
            }
        }
        impl utoipa::ToSchema for $name {}
    )*};
}

text! {
    QuorumId: hex_pattern(ids::QuorumId::LEN);
    Digest: hex_pattern(ids::Digest::LEN);
    BootId: hex_pattern(ids::BootId::LEN);
    Nonce: hex_pattern(ids::Nonce::LEN);
    PeerId: "^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$";
    JobId: r"^[0-9a-f]{32}\.[0-9a-f]{32}$";
    ObjectId: r"^[0-9a-f]{32}\.[0-9a-f]{64}$";
    // Both halves of an ed25519 signature.
    Signature: hex_pattern(64);
}

fn hex_pattern(bytes: usize) -> String {
    format!("^[0-9a-f]{{{}}}$", 2 * bytes)
}

macro_rules! number {
    ($($(#[$doc:meta])* $name:ident, $inner:ty;)*) => {$(
        $(#[$doc])*
        #[derive(utoipa::ToSchema)]
        pub struct $name(pub $inner);
    )*};
}

number! {
    /// An erasure-coded part of a segment, counted from the first data piece. All pieces with one index are a column.
    PieceIndex, u8;
    /// Which try of a task (or of a column's holder). Grows by one with every new assignment; older ones are fenced.
    Attempt, u32;
    /// A stage of a run, counted from the first. Its tasks begin when those of the stage before are done.
    StepIndex, u16;
    /// A unit of a step, given to one worker (or, under verification, to several).
    TaskIndex, u32;
    /// Raft's term: the reign of at most one primary.
    Term, u64;
    /// A position in a quorum's log.
    LogIndex, u64;
    /// An instant: milliseconds since the Unix epoch.
    Millis, u64;
}

#[cfg(test)]
mod tests {
    use std::fmt::Display;
    use std::str::FromStr;

    use proptest::prelude::*;
    use proptest::string::string_regex;
    use utoipa::PartialSchema;

    use super::*;

    fn pattern<S: PartialSchema>() -> String {
        let RefOr::T(Schema::Object(described)) = S::schema() else { panic!("an id is described in place") };
        let pattern = described.pattern.expect("an id has a pattern");
        pattern.strip_prefix('^').and_then(|inner| inner.strip_suffix('$')).expect("of the whole text").to_owned()
    }

    /// Texts that fit the description of an id.
    fn texts<S: PartialSchema>() -> impl Strategy<Value = String> {
        string_regex(&pattern::<S>()).expect("a pattern")
    }

    fn read_back<I: FromStr<Err: Display> + Display>(text: &str) -> Result<(), TestCaseError> {
        let id = text.parse::<I>().map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(id.to_string(), text);
        Ok(())
    }

    proptest! {
        /// Goal: what fits the description of an id is one, and is printed as it was read.
        #[test]
        fn a_text_that_fits_a_pattern_is_an_id(
            quorum in texts::<QuorumId>(),
            digest in texts::<Digest>(),
            boot in texts::<BootId>(),
            nonce in texts::<Nonce>(),
            job in texts::<JobId>(),
            object in texts::<ObjectId>(),
            signature in texts::<Signature>(),
        ) {
            read_back::<ids::QuorumId>(&quorum)?;
            read_back::<ids::Digest>(&digest)?;
            read_back::<ids::BootId>(&boot)?;
            read_back::<ids::Nonce>(&nonce)?;
            read_back::<ids::JobId>(&job)?;
            read_back::<ids::ObjectId>(&object)?;
            let json = serde_json::Value::from(signature);
            let read = serde_json::from_value::<quorate_protocols::approval::message::Signature>(json.clone()).unwrap();
            prop_assert_eq!(serde_json::to_value(read).unwrap(), json);
        }

        /// Goal: every peer id fits its description. Not every text that fits is a key, so this one goes the other way.
        #[test]
        fn a_peer_id_fits_its_pattern(bytes in any::<[u8; 32]>()) {
            let text = ids::PeerId(bytes).to_string();
            let digits = text.strip_prefix("12D3KooW").expect("the prefix of ed25519 keys");
            prop_assert_eq!(digits.len(), 44);
            prop_assert!(digits.chars().all(|digit| digit.is_ascii_alphanumeric() && !"0OIl".contains(digit)), "{}", text);
        }
    }
}
