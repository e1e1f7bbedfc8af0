//! WebNN as JavaScript has it. web-sys has none of it, so the bindings are written here, for what this backend uses.
//!
//! Operators are called by name, as a recipe holds them; only what makes operands, tensors and graphs is bound by type.

use js_sys::{Array, Function, Object, Promise, Reflect};
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// `navigator.ml`.
    #[derive(Clone)]
    pub(crate) type Ml;
    #[wasm_bindgen(method, catch, js_name = createContext)]
    pub(crate) fn create_context(this: &Ml, options: &Object) -> Result<Promise, JsValue>;

    /// `MLContext`: a device. What is asked of it is done in the order in which it is asked.
    #[derive(Clone)]
    pub(crate) type MlContext;
    /// Settles when the context is lost, never before.
    #[wasm_bindgen(method, getter)]
    pub(crate) fn lost(this: &MlContext) -> Option<Promise>;
    /// Whether the device is a GPU or an NPU, where the browser tells.
    #[wasm_bindgen(method, getter)]
    pub(crate) fn accelerated(this: &MlContext) -> Option<bool>;
    #[wasm_bindgen(method, catch, js_name = opSupportLimits)]
    pub(crate) fn op_support_limits(this: &MlContext) -> Result<Object, JsValue>;
    #[wasm_bindgen(method, catch, js_name = createTensor)]
    pub(crate) fn create_tensor(this: &MlContext, descriptor: &Object) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = writeTensor)]
    pub(crate) fn write_tensor(this: &MlContext, tensor: &MlTensor, data: &JsValue) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = readTensor)]
    pub(crate) fn read_tensor(this: &MlContext, tensor: &MlTensor) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(crate) fn dispatch(this: &MlContext, graph: &MlGraph, inputs: &Object, outputs: &Object)
    -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(crate) fn destroy(this: &MlContext) -> Result<(), JsValue>;

    /// `MLGraphBuilder`, good for one graph.
    #[wasm_bindgen(js_name = MLGraphBuilder)]
    pub(crate) type MlGraphBuilder;
    #[wasm_bindgen(constructor, catch, js_class = "MLGraphBuilder")]
    pub(crate) fn new(context: &MlContext) -> Result<MlGraphBuilder, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(crate) fn input(this: &MlGraphBuilder, name: &str, descriptor: &Object) -> Result<MlOperand, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(crate) fn constant(this: &MlGraphBuilder, descriptor: &Object, bytes: &JsValue) -> Result<MlOperand, JsValue>;
    #[wasm_bindgen(method, catch)]
    pub(crate) fn build(this: &MlGraphBuilder, outputs: &Object) -> Result<Promise, JsValue>;

    /// `MLOperand`.
    #[derive(Clone)]
    pub(crate) type MlOperand;

    /// `MLTensor`: memory of a context.
    #[derive(Clone)]
    pub(crate) type MlTensor;
    #[wasm_bindgen(method, catch, js_name = destroy)]
    pub(crate) fn destroy_tensor(this: &MlTensor) -> Result<(), JsValue>;

    /// `MLGraph`: compiled, with its constants.
    #[derive(Clone)]
    pub(crate) type MlGraph;

    #[wasm_bindgen(js_name = globalThis)]
    type Scope;
    #[wasm_bindgen(method, getter)]
    fn navigator(this: &Scope) -> Option<NavigatorMl>;
    #[wasm_bindgen(method, js_name = setTimeout)]
    fn set_timeout(this: &Scope, callback: &Function, milliseconds: u32) -> JsValue;
    type NavigatorMl;
    #[wasm_bindgen(method, getter)]
    fn ml(this: &NavigatorMl) -> Option<Ml>;
}

/// The browser's WebNN, where it has one.
pub(crate) fn navigator_ml() -> Option<Ml> {
    js_sys::global().unchecked_into::<Scope>().navigator()?.ml()
}

/// Waits.
pub(crate) async fn sleep(milliseconds: u32) {
    let promise = Promise::new(&mut |resolve, _| {
        js_sys::global().unchecked_into::<Scope>().set_timeout(&resolve, milliseconds);
    });
    // A promise that only a timer resolves is never rejected.
    let _ = JsFuture::from(promise).await;
}

impl MlGraphBuilder {
    /// Calls the method of this name.
    pub(crate) fn operator(&self, method: &str, arguments: &Array) -> Result<MlOperand, JsValue> {
        let function: Function = Reflect::get(self, &method.into())?.dyn_into()?;
        function.apply(self, arguments).map(JsCast::unchecked_into)
    }
}

impl MlGraph {
    /// Frees it now and not when it is collected, where the browser can.
    pub(crate) fn free(&self) {
        if let Ok(destroy) = Reflect::get(self, &"destroy".into()).and_then(JsCast::dyn_into::<Function>) {
            // One that is freed already, or whose context is gone, is as free as it gets.
            let _ = destroy.call0(self);
        }
    }
}

/// A plain object with these members.
pub(crate) fn object<const N: usize>(members: [(&str, JsValue); N]) -> Object {
    let object = Object::new();
    for (key, value) in members {
        set(&object, key, &value);
    }
    object
}

/// Sets a member of a plain object, which cannot fail.
pub(crate) fn set(object: &Object, key: &str, value: &JsValue) {
    let _ = Reflect::set(object, &key.into(), value);
}

/// A member, `undefined` where there is none.
pub(crate) fn get(value: &JsValue, key: &str) -> JsValue {
    Reflect::get(value, &key.into()).unwrap_or(JsValue::UNDEFINED)
}

/// What a thrown value says: its name and message where it is an error.
pub(crate) fn thrown(value: &JsValue) -> String {
    let part = |key| get(value, key).as_string().filter(|text| !text.is_empty());
    match (part("name"), part("message")) {
        (Some(name), Some(message)) => format!("{name}: {message}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => value.as_string().unwrap_or_else(|| format!("{value:?}")),
    }
}
