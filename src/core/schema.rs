//! The arguments of a call against the `inputSchema` of its tool.

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {}

/// Why a schema cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the schema cannot be enforced")]
pub struct SchemaError {}

impl Schema {
    /// Compiles the `inputSchema` of a tool's definition.
    ///
    /// # Errors
    /// [`SchemaError`]; the server's owner can mend it.
    pub fn of_tool(definition: &str) -> Result<Self, SchemaError> {
        let _ = definition;
        Err(SchemaError {})
    }
}
