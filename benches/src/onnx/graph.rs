//! An ONNX graph being built: nodes in the order of the calls, constants, inputs, outputs. Field numbers are those of
//! `onnx.proto`.

use super::wire::Message;

/// The domain of onnxruntime's own operators.
const CONTRIBUTED: &str = "com.microsoft";

/// A value's name.
pub(super) type Name = String;

/// ONNX's numbers of the element types used here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Element {
    F32 = 1,
    I32 = 6,
    I64 = 7,
}

/// A dimension of an input or output.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dim {
    Free(&'static str),
    Fixed(usize),
}

/// An attribute of a node.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute<'a> {
    Float(&'a str, f32),
    Int(&'a str, i64),
    Ints(&'a str, &'a [i64]),
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Message>,
    initializers: Vec<Message>,
    inputs: Vec<Message>,
    outputs: Vec<Message>,
    /// Whether there are operators of onnxruntime's own.
    contributed: bool,
}

impl Graph {
    /// A node with one output, which is named after the node.
    pub(super) fn node(&mut self, name: &str, op: &str, inputs: &[&str], attributes: &[Attribute<'_>]) -> Name {
        let output = format!("{name}_output_0");
        self.node_to(&output, name, op, inputs, attributes);
        output
    }

    /// A node whose output has a name of its own.
    pub(super) fn node_to(
        &mut self,
        output: &str,
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: &[Attribute<'_>],
    ) {
        self.nodes.push(node(&[output], name, op, inputs, attributes));
    }

    /// A node with several outputs that have names of their own.
    pub(super) fn node_to_all(
        &mut self,
        outputs: &[&str],
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: &[Attribute<'_>],
    ) {
        self.nodes.push(node(outputs, name, op, inputs, attributes));
    }

    /// The same with an operator of onnxruntime's own. An input that is left out has no name.
    pub(super) fn contributed(
        &mut self,
        outputs: &[&str],
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: &[Attribute<'_>],
    ) {
        self.contributed = true;
        self.nodes.push(node(outputs, name, op, inputs, attributes).bytes(7, CONTRIBUTED));
    }

    /// A tensor of floats that is part of the file.
    pub(super) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Name {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, dims, Element::F32, &bytes)
    }

    /// A tensor of integers that is part of the file.
    pub(super) fn integers(&mut self, name: &str, dims: &[usize], values: &[i64]) -> Name {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, dims, Element::I64, &bytes)
    }

    fn initializer(&mut self, name: &str, dims: &[usize], element: Element, bytes: &[u8]) -> Name {
        let message = dims.iter().fold(Message::default(), |message, dim| message.integer(1, *dim as i64));
        self.initializers.push(message.integer(2, element as i64).bytes(8, name).bytes(9, bytes));
        name.to_owned()
    }

    pub(super) fn input(&mut self, name: &str, element: Element, dims: &[Dim]) -> Name {
        self.inputs.push(value_info(name, element, dims));
        name.to_owned()
    }

    pub(super) fn output(&mut self, name: &str, element: Element, dims: &[Dim]) {
        self.outputs.push(value_info(name, element, dims));
    }

    /// The whole file.
    pub(super) fn into_model(self, opset: i64) -> Vec<u8> {
        // The version of the file format that came with opset 17.
        const IR_VERSION: i64 = 8;
        let graph = Message::default()
            .messages(1, &self.nodes)
            .bytes(2, "main_graph")
            .messages(5, &self.initializers)
            .messages(11, &self.inputs)
            .messages(12, &self.outputs);
        let operators = |domain, version| Message::default().bytes(1, domain).integer(2, version);
        let mut imports = vec![operators("", opset)];
        if self.contributed {
            imports.push(operators(CONTRIBUTED, 1));
        }
        Message::default()
            .integer(1, IR_VERSION)
            .bytes(2, "tabpool-benches")
            .message(7, &graph)
            .messages(8, &imports)
            .finish()
    }
}

fn node(outputs: &[&str], name: &str, op: &str, inputs: &[&str], attributes: &[Attribute<'_>]) -> Message {
    let message = inputs.iter().fold(Message::default(), |message, input| message.bytes(1, input));
    let message = outputs.iter().fold(message, |message, output| message.bytes(2, output));
    let message = message.bytes(3, name).bytes(4, op);
    message.messages(5, &attributes.iter().map(attribute).collect::<Vec<_>>())
}

fn attribute(attribute: &Attribute<'_>) -> Message {
    match *attribute {
        Attribute::Float(name, value) => Message::default().bytes(1, name).float(2, value).integer(20, 1),
        Attribute::Int(name, value) => Message::default().bytes(1, name).integer(3, value).integer(20, 2),
        Attribute::Ints(name, values) => {
            let named = Message::default().bytes(1, name);
            values.iter().fold(named, |message, value| message.integer(8, *value)).integer(20, 7)
        }
    }
}

fn value_info(name: &str, element: Element, dims: &[Dim]) -> Message {
    let dims = dims.iter().map(|dim| match dim {
        Dim::Free(name) => Message::default().bytes(2, name),
        Dim::Fixed(size) => Message::default().integer(1, *size as i64),
    });
    let shape = Message::default().messages(1, &dims.collect::<Vec<_>>());
    let tensor = Message::default().integer(1, element as i64).message(2, &shape);
    Message::default().bytes(1, name).message(2, &Message::default().message(1, &tensor))
}
