//! Messages to the page: plain objects with a `kind`, which `static/page.js` shows.

use js_sys::{Object, Reflect};
use wasm_bindgen::prelude::JsValue;

use crate::navigator::scope;

/// An object under construction.
pub(crate) struct Note(Object);

impl Note {
    /// A message of a kind.
    pub(crate) fn of(kind: &str) -> Self {
        Self(Object::new()).with("kind", kind)
    }

    /// A nested object.
    pub(crate) fn plain() -> Self {
        Self(Object::new())
    }

    /// Adds a property.
    pub(crate) fn with(self, key: &str, value: impl Into<JsValue>) -> Self {
        // Setting a property of an object of our own cannot fail.
        let _ = Reflect::set(&self.0, &JsValue::from_str(key), &value.into());
        self
    }

    /// Adds a count of blocks and bytes.
    pub(crate) fn with_blocks(self, key: &str, (blocks, bytes): (u32, u64)) -> Self {
        self.with(key, Note::plain().with("blocks", blocks).with("bytes", bytes as f64))
    }

    /// Sends it to the page.
    pub(crate) fn post(self) {
        // Plain values can always be cloned; without a page there is nobody to tell.
        let _ = scope().post_message(&self.0);
    }
}

impl From<Note> for JsValue {
    fn from(note: Note) -> JsValue {
        note.0.into()
    }
}
