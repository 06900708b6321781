use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::telemetry::otlp::tests::{Any, AnyValue, KeyValue};

/// Fields of every kind that we write, read by another reader.
#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(fixed64, tag = "2")]
    eight: u64,
    #[prost(fixed32, tag = "16")]
    four: u32,
    #[prost(bytes = "vec", tag = "3")]
    bytes: Vec<u8>,
    #[prost(string, tag = "4")]
    text: String,
    #[prost(message, optional, boxed, tag = "5")]
    inner: Option<Box<Sample>>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
}

fn write(out: &mut Vec<u8>, sample: &Sample) {
    uint(out, 1, sample.number);
    fixed64(out, 2, sample.eight);
    fixed32(out, 16, sample.four);
    bytes(out, 3, &sample.bytes);
    string(out, 4, &sample.text);
    if let Some(inner) = &sample.inner {
        message(out, 5, |out| write(out, inner));
    }
    for KeyValue { key, value } in &sample.attributes {
        let value = match value.as_ref().and_then(|value| value.any.as_ref()).unwrap() {
            Any::Text(text) => Value::Text(text),
            Any::Bool(value) => Value::Bool(*value),
            Any::Int(value) => Value::Int(u64::try_from(*value).unwrap()),
        };
        key_value(out, 6, key, value);
    }
}

fn attribute() -> impl Strategy<Value = AnyValue> + use<> {
    let any = prop_oneof![
        "\\PC{0,300}".prop_map(Any::Text),
        any::<bool>().prop_map(Any::Bool),
        (0_i64..=i64::MAX).prop_map(Any::Int),
    ];
    any.prop_map(|any| AnyValue { any: Some(any) })
}

proptest! {
    #[test]
    fn another_reader_reads_what_is_written(
        number in any::<u64>(), shift in 0_u32..64, eight in any::<u64>(), four in any::<u32>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in "\\PC{0,5000}",
        keys in proptest::collection::vec(("[a-z.]{1,200}", attribute()), 0..4),
    ) {
        let attributes = keys.into_iter().map(|(key, value)| KeyValue { key, value: Some(value) }).collect();
        let leaf = Sample { number: number >> shift, eight, four, bytes, text, inner: None, attributes };
        let sample = Sample { inner: Some(Box::new(leaf.clone())), ..leaf };
        let mut out = Vec::new();
        write(&mut out, &sample);
        prop_assert_eq!(Sample::decode(&out[..]).unwrap(), sample.clone());
        let read = Fields::of(&out);
        prop_assert_eq!(read.clone().number(1), Some(sample.number));
        prop_assert_eq!(read.clone().bytes(4), Some(sample.text.as_bytes()));
        prop_assert_eq!(read.count().checked_sub(sample.attributes.len()), Some(6));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        prop_assert!(Fields::of(&bytes).count() <= bytes.len());
    }
}

#[test]
fn the_length_of_a_number_is_known_before_it_is_written() {
    for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
        let mut out = Vec::new();
        varint(&mut out, value);
        assert_eq!(u64::try_from(out.len()).unwrap(), varint_bytes(value), "{value}");
    }
}
