//! An answer's body, piece by piece.

use js_sys::{Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

use crate::navigator::property;

/// Bytes of the buffer that pieces come in. Browsers give a hundred kilobytes at a time at most.
const ROOM: u32 = 256 << 10;

#[wasm_bindgen]
extern "C" {
    type Stream;
    #[wasm_bindgen(method, catch, js_name = getReader)]
    fn get_reader(this: &Stream, options: &Object) -> Result<Reader, JsValue>;

    type Reader;
    #[wasm_bindgen(method)]
    fn read(this: &Reader) -> Promise;
    #[wasm_bindgen(method, js_name = read)]
    fn read_into(this: &Reader, room: &Uint8Array) -> Promise;
}

/// A body that is being read.
pub(crate) struct Body {
    reader: Reader,
    /// One buffer for all pieces, where the browser fills such: of its own it makes a new one for each, in memory that the system
    /// has to clear first.
    room: Option<Uint8Array>,
}

impl Body {
    /// Of a response's `body`, which nobody reads yet.
    pub(crate) fn new(stream: JsValue) -> Result<Self, JsValue> {
        let stream: Stream = stream.unchecked_into();
        let own_buffer = Object::new();
        Reflect::set(&own_buffer, &"mode".into(), &"byob".into())?;
        match stream.get_reader(&own_buffer) {
            Ok(reader) => Ok(Self { reader, room: Some(Uint8Array::new_with_length(ROOM)) }),
            Err(_) => Ok(Self { reader: stream.get_reader(&Object::new())?, room: None }),
        }
    }

    /// The next piece, which is there until the one after it is asked for; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Uint8Array>, JsValue> {
        let read = match self.room.take() {
            // The buffer goes away and comes back with the piece.
            Some(room) => self.reader.read_into(&room),
            None => self.reader.read(),
        };
        let read = JsFuture::from(read).await?;
        if property(&read, "done").is_truthy() {
            return Ok(None);
        }
        let piece: Uint8Array = property(&read, "value").unchecked_into();
        let buffer = piece.buffer();
        if buffer.byte_length() == ROOM {
            self.room = Some(Uint8Array::new(&buffer));
        }
        Ok(Some(piece))
    }
}
