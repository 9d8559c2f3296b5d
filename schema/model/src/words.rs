//! Enums that are words in the database, on the command line and in JSON, the same everywhere.

pub use serde::{Serialize, Serializer};
use thiserror::Error;

/// A word that the enum does not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid {what} {word:?}: expected one of {allowed}")]
pub struct UnknownWord {
    /// What the word should be, such as "policy".
    pub what: &'static str,
    /// The word that was found instead.
    pub word: String,
    /// Every word of the enum, with commas in between.
    pub allowed: String,
}

/// Declares an enum with its words: `ALL`, `as_str`, `FromStr`, `Display` and `Serialize`.
#[macro_export]
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word that stands for this value everywhere.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::words::UnknownWord {
                        what: $what,
                        word: word.to_owned(),
                        allowed: [$($word),+].join(", "),
                    }),
                }
            }
        }

        impl $crate::words::Serialize for $name {
            fn serialize<S: $crate::words::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
