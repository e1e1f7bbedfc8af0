//! Convolutions.

use tabpool_graph::{Activation, ValueId};
use tabpool_tensor::DType;

use super::Lowering;
use crate::recipe::{Argument, Made};

/// How a kernel moves, as [`Op::Conv2d`](tabpool_graph::Op::Conv2d) says it.
pub(super) struct Motion {
    pub(super) stride: [usize; 2],
    /// Top, left, bottom, right.
    pub(super) padding: [usize; 4],
    pub(super) dilation: [usize; 2],
    pub(super) groups: usize,
}

impl Lowering<'_> {
    /// One `conv2d`, its operands as the program lays them out: browsers that want channels innermost turn weights when they
    /// compile, and turning images here was measured to be no faster.
    pub(super) fn conv2d(
        &mut self,
        inputs: &[ValueId],
        output: ValueId,
        motion: &Motion,
        activation: Option<Activation>,
    ) -> Made {
        let (x, weight) = (self.whole(inputs[0])?, self.whole(inputs[1])?);
        let [top, left, bottom, right] = motion.padding;
        let mut options = vec![
            ("padding", Argument::Dims(vec![top, bottom, left, right])),
            ("strides", Argument::Dims(motion.stride.to_vec())),
            ("dilations", Argument::Dims(motion.dilation.to_vec())),
            ("groups", Argument::Number(motion.groups as f64)),
            ("inputLayout", Argument::Text("nchw")),
            ("filterLayout", Argument::Text("oihw")),
        ];
        if let Some(&bias) = inputs.get(2) {
            options.push(("bias", Argument::Operand(self.whole(bias)?)));
        }
        let like = (DType::F32, self.dims(output).to_vec());
        let y = self.draft.call("conv2d", &[x, weight], Vec::new(), options, like)?;
        match activation {
            Some(activation) => self.unary(activation.unary(), y),
            None => Ok(y),
        }
    }
}
