//! Bodies over the limit, in every way that HTTP/2 can cut them into frames.

use super::harness::http2::{End, Shape};

/// Every shape is longer than 1024 bytes; the first three reach an authorizer cut to the limit on Envoy before 1.40.
pub(crate) const OVER_THE_LIMIT: &[Shape] = &[
    Shape { frames: &[1025], end: End::LastData },
    Shape { frames: &[16_384], end: End::LastData },
    Shape { frames: &[1024, 16_384], end: End::LastData },
    Shape { frames: &[16_384, 16_384, 16_384], end: End::LastData },
    Shape { frames: &[2000], end: End::EmptyData },
    Shape { frames: &[2000], end: End::Trailers },
];
