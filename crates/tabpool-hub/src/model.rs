//! What a person types to name a model on a hub: `hf:org/name@revision`.

use std::fmt;
use std::str::FromStr;

use crate::error::HubError;

/// A repository on a hub, at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubModel {
    /// `org/name`, or `name` alone for the few that have no organisation.
    repository: String,
    revision: String,
}

impl HubModel {
    /// Reads `hf:org/name` or `hf:org/name@revision`, where the revision is a branch, a tag or a commit and `main`
    /// when not given.
    ///
    /// # Errors
    ///
    /// [`HubError::BadName`].
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let bad = |reason| Err(HubError::BadName { name: text.to_owned(), reason });
        let Some(rest) = text.strip_prefix("hf:") else { return bad("it does not begin with hf:") };
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let parts: Vec<_> = repository.split('/').collect();
        if parts.len() > 2 {
            return bad("it has more than one slash");
        }
        for part in parts {
            if part.is_empty() {
                return bad("a part of it is empty");
            }
            if part.len() > 96 || part.contains("..") || part.starts_with(['.', '-']) {
                return bad("no repository can be called so");
            }
            if !part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
                return bad("only letters, digits, '-', '_' and '.' occur in repositories' names");
            }
        }
        let revision_is_plain = revision.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '\\' | '@'));
        if revision.is_empty() || revision.len() > 200 || revision.contains("..") || !revision_is_plain {
            return bad("what follows the @ is not a branch, a tag or a commit");
        }
        Ok(Self { repository: repository.to_owned(), revision: revision.to_owned() })
    }

    /// `org/name`, or `name` alone.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl FromStr for HubModel {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        Self::parse(text)
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "hf:{}@{}", self.repository, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_revision_is_main_unless_given() {
        let model = HubModel::parse("hf:sentence-transformers/all-MiniLM-L6-v2").expect("a name");
        assert_eq!((model.repository(), model.revision()), ("sentence-transformers/all-MiniLM-L6-v2", "main"));
        let model = HubModel::parse("hf:gpt2@refs/pr/1").expect("a name");
        assert_eq!((model.repository(), model.revision()), ("gpt2", "refs/pr/1"));
        assert_eq!(model.to_string(), "hf:gpt2@refs/pr/1");
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        let names =
            "gpt2 hf: hf:/x hf:a/b/c hf:../x hf:a/.. hf:a/b@ hf:a/b@../x hf:a/b@x?y hf:a/b@x#y hf:a/b@c@d hf:a%2fb";
        for name in names.split(' ').chain(["hf:a b", "hf:a/b@x y"]) {
            assert!(matches!(HubModel::parse(name), Err(HubError::BadName { .. })), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same(text in "hf:[a-z.-]{1,5}(/[a-z.-]{1,5})?(@[a-z/.]{1,5})?") {
            if let Ok(model) = HubModel::parse(&text) {
                prop_assert_eq!(HubModel::parse(&model.to_string()).expect("it parsed before"), model);
            }
        }
    }
}
