//! Lowering of attention.

use tabpool_graph::{Node, Op};

use super::node::Dispatch;
use super::{Bound, Lowering, Source};
use crate::kernels::attention::{self, Attention, AttentionVariant};
use crate::strides::broadcast;

/// The kernels' operand, counted from 0, that says where queries begin.
const FIRST_QUERY: usize = 5;

impl Lowering<'_> {
    /// One dispatch for [`Op::Attention`]; nothing for another operator.
    pub(super) fn attention(&mut self, node: &Node) -> Vec<Dispatch> {
        let &Op::Attention { heads, kv_heads, scale, causal } = &node.op else { return Vec::new() };
        let [q, k, v] = [0, 1, 2].map(|i| node.inputs[i]);
        let (qd, kd, vd) = (self.dims(q), self.dims(k), self.dims(v));
        let scores = [qd[0], heads, qd[1], kd[1]];
        let (operands, start) = node.inputs.split_at(node.inputs.len() - usize::from(causal));
        let strides = |bias| {
            let strides = broadcast(self.dims(bias), &scores);
            [strides[0], strides[1], strides[2], strides[3]]
        };
        let of = Attention {
            batches: qd[0],
            heads,
            kv_heads,
            queries: qd[1],
            keys: kd[1],
            size: qd[2] / heads,
            value_size: vd[2] / kv_heads,
            scale,
            causal,
            biases: operands[3..].iter().map(|&bias| strides(bias)).collect(),
        };
        let launch = attention::launch(self.attention_variant(&of), &of);
        let mut reads: Vec<Bound> = operands.iter().map(|&id| self.bound(id)).collect();
        reads.resize(FIRST_QUERY, Source::Absent.into());
        reads.push(start.first().map_or(Source::Absent.into(), |&id| self.bound(id)));
        vec![Dispatch::new(launch, reads)]
    }

    /// The variant that is forced, the one that won on this device, or the likely best.
    fn attention_variant(&mut self, of: &Attention) -> AttentionVariant {
        let class = attention::trial::class(of);
        let won = self.tuner.choice(&class).and_then(|name| AttentionVariant::named(&name)).filter(|v| v.fits(of));
        let forced = self.device.forced.attention.filter(|v| v.fits(of));
        self.attentions.entry(class).or_insert_with(|| (of.clone(), 0)).1 += 1;
        forced.or(won).unwrap_or_else(|| AttentionVariant::candidates(of, self.device.kind)[0])
    }
}
