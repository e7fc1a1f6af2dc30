//! SSM units: what each component of a saved state is called, and its container on disk.

/// One unit: a component's saved data.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Unit {
    /// Component name (`i8254`, `cpum`, `ram` ...), at most 48 bytes.
    #[n(0)]
    pub name: String,
    /// Instance of the component.
    #[n(1)]
    pub instance: u32,
    /// Layout version of `data`.
    #[n(2)]
    pub version: u32,
    /// The component's own encoding.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub data: Vec<u8>,
}

/// Encodes a device's saved struct.
///
/// # Errors
/// [`crate::Error::SavedState`] when encoding fails.
pub fn encode<T: minicbor::Encode<()>>(value: &T) -> crate::Result<Vec<u8>> {
    minicbor::to_vec(value).map_err(|e| crate::Error::SavedState(e.to_string()))
}

/// Decodes a device's saved struct; `version` must be `expected` and no byte may be left over.
///
/// # Errors
/// [`crate::Error::SavedState`] saying what does not fit.
pub fn decode<'a, T: minicbor::Decode<'a, ()>>(
    version: u32,
    expected: u32,
    data: &'a [u8],
) -> crate::Result<T> {
    let bad = crate::Error::SavedState;
    if version != expected {
        return Err(bad(format!(
            "version {version} is not known (this build reads {expected})"
        )));
    }
    let mut decoder = minicbor::Decoder::new(data);
    let value = decoder.decode().map_err(|e| bad(e.to_string()))?;
    if decoder.position() != data.len() {
        return Err(bad(format!(
            "{} bytes left over",
            data.len() - decoder.position()
        )));
    }
    Ok(value)
}
