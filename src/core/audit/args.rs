//! What a record says of the arguments of a call.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{KEY_BYTES_MAX, KEYS_MAX, members::Members};
use crate::json::{Kind, Value};
use crate::pins::push_canonical;

/// Bytes of one value that [`ArgsMode::Full`] writes; longer ones are cut.
pub const VALUE_BYTES_MAX: usize = 4_096;
/// Bytes of all values of one record; further ones are left out.
pub const RECORD_VALUE_BYTES_MAX: usize = 16_384;

/// Keeps digests of values apart from everything else under the same key.
const DOMAIN: &[u8] = b"mcp-authz audit argument 1\0";
/// Bytes of a digest of a value.
const DIGEST_BYTES: usize = 16;

/// What records say of arguments: the setting `audit.args`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArgsMode {
    /// Names and exact values, within bounds.
    Full,
    /// Names, and a keyed digest of each value: equal values can be found, and none can be guessed without the key.
    Hmac,
    /// Names alone.
    #[default]
    Keys,
    /// Nothing.
    None,
    /// Names, and type and length of each value.
    Redacted,
}

impl ArgsMode {
    /// Every mode, in the order of names.
    pub const ALL: &'static [ArgsMode] =
        &[ArgsMode::Full, ArgsMode::Hmac, ArgsMode::Keys, ArgsMode::None, ArgsMode::Redacted];

    /// The name in the settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ArgsMode::Full => "full",
            ArgsMode::Hmac => "hmac",
            ArgsMode::Keys => "keys",
            ArgsMode::None => "none",
            ArgsMode::Redacted => "redacted",
        }
    }
}

/// Writes what the mode says of the top-level arguments, sorted by name. The key is that of [`ArgsMode::Hmac`]; without one
/// names alone are written.
pub(super) fn write(out: &mut Members<'_>, arguments: Value<'_>, mode: ArgsMode, key: Option<&[u8; 32]>) {
    if mode == ArgsMode::None {
        return;
    }
    let mut all: Vec<_> = arguments.members().collect();
    all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let listed = || all.iter().take(KEYS_MAX);
    let mac = key.filter(|_| mode == ArgsMode::Hmac).and_then(|key| Hmac::<Sha256>::new_from_slice(key).ok());
    match (mode, mac) {
        (ArgsMode::Full, _) => {
            let mut left = RECORD_VALUE_BYTES_MAX;
            out.objects("args", listed(), |out, (name, value)| {
                let text = value.source();
                out.number("bytes", u64::try_from(text.len()).unwrap_or(u64::MAX));
                out.text_cut("key", name, KEY_BYTES_MAX);
                if left > 0 {
                    out.text_cut("value", text, VALUE_BYTES_MAX.min(left));
                }
                left = left.saturating_sub(text.len());
            });
        }
        (ArgsMode::Hmac, Some(mac)) => out.objects("args", listed(), |out, (name, value)| {
            let mut text = String::new();
            push_canonical(&mut text, *value);
            let digest: [u8; 32] =
                mac.clone().chain_update(DOMAIN).chain_update(text.as_bytes()).finalize().into_bytes().into();
            out.hex("digest", digest.get(..DIGEST_BYTES).unwrap_or_default());
            out.text_cut("key", name, KEY_BYTES_MAX);
        }),
        (ArgsMode::Redacted, _) => out.objects("args", listed(), |out, (name, value)| {
            out.text_cut("key", name, KEY_BYTES_MAX);
            if let Some(length) = length(*value) {
                out.number("length", u64::try_from(length).unwrap_or(u64::MAX));
            }
            out.word("type", kind(*value));
        }),
        (ArgsMode::Hmac | ArgsMode::Keys | ArgsMode::None, _) => {
            out.texts("arg_keys", listed().map(|(name, _)| &**name), KEY_BYTES_MAX);
            return out.total("arg_keys_total", all.len(), KEYS_MAX);
        }
    }
    out.total("args_total", all.len(), KEYS_MAX);
}

/// Characters of a string, elements or members of the others; none for scalars, whose length would say what they are.
fn length(value: Value<'_>) -> Option<usize> {
    match value.kind() {
        Kind::Array | Kind::Object => Some(value.len()),
        Kind::String => value.as_str().map(|text| text.chars().count()),
        Kind::False | Kind::Null | Kind::Number | Kind::True => None,
    }
}

fn kind(value: Value<'_>) -> &'static str {
    match value.kind() {
        Kind::Array => "array",
        Kind::False | Kind::True => "boolean",
        Kind::Null => "null",
        Kind::Number => "number",
        Kind::Object => "object",
        Kind::String => "string",
    }
}
