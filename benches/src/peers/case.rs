//! What is computed: a model, a batch, a length; the same tokens for every contender, and the reference outputs.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tabpool_content::Cid;
use tabpool_engine::oracle;
use tabpool_models::Model;
use tabpool_tensor::{DType, Tensor};

use crate::Fault;
use crate::onnx::BertSizes;

/// The output that is compared and timed, back in the caller's memory as 32-bit floats.
pub(super) const OUTPUT: &str = "last_hidden_state";
/// Different sequences in a batch; the others repeat them, so that a reference of two rows judges all.
const DISTINCT: usize = 2;

/// A model that both sides run.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) sizes: BertSizes,
}

impl Subject {
    pub(super) fn read(name: &str, folder: &Path) -> Result<Self, Fault> {
        Ok(Self { name: name.to_owned(), folder: folder.to_owned(), sizes: BertSizes::read(folder)? })
    }
}

/// One shape of one model.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) subject: Subject,
    pub(super) batch: usize,
    pub(super) sequence: usize,
}

impl Case {
    /// The tokens, row after row: spread over the vocabulary, the same in every run.
    pub(super) fn ids(&self) -> Vec<i64> {
        let vocabulary = self.subject.sizes.vocabulary as u64;
        let row = |row: usize| {
            // A linear congruence with an odd multiplier visits every token before it repeats one.
            (0..self.sequence as u64).map(move |at| (at * 2_654_435_761 + 97 * (row as u64 + 1)) % vocabulary)
        };
        (0..self.batch).flat_map(|r| row(r % DISTINCT)).map(u64::cast_signed).collect()
    }

    /// The same as inputs of our model.
    pub(super) fn inputs(&self) -> Result<Vec<(String, Tensor)>, Fault> {
        let ids = Tensor::from_i64([self.batch, self.sequence], self.ids())?;
        Ok(vec![("input_ids".to_owned(), ids)])
    }

    /// Billions of floating-point operations in one run: the matrix products, counted as a multiplication and an addition.
    pub(super) fn gigaflops(&self) -> f64 {
        let BertSizes { layers, hidden, inner, .. } = self.subject.sizes;
        let tokens = self.batch * self.sequence;
        let linear = tokens * (4 * hidden * hidden + 2 * hidden * inner);
        let attention = tokens * self.sequence * 2 * hidden;
        #[expect(clippy::cast_precision_loss, reason = "a share of a per cent does not matter")]
        let operations = (2 * layers * (linear + attention)) as f64;
        operations / 1e9
    }
}

/// The right output of one or two rows of a case; further rows repeat them.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    rows: Vec<f32>,
}

impl Reference {
    /// Computes it with the scalar oracle, or reads what an earlier run computed from the same model.
    pub(super) fn of(case: &Case, model: &Model, root: &Cid, kept: &Path) -> Result<Self, Fault> {
        let batch = case.batch.min(DISTINCT);
        let path = kept.join(format!("{root}-{batch}x{}.f32", case.sequence));
        if let Ok(bytes) = fs::read(&path) {
            let rows: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if rows.len() == batch * case.sequence * case.subject.sizes.hidden {
                return Ok(Self { rows });
            }
        }
        let small = Case { batch, ..case.clone() };
        let rows = small.computed(model)?;
        fs::create_dir_all(kept)?;
        let bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        // A cut file has the wrong length, so it is not taken for whole.
        fs::write(&path, bytes)?;
        Ok(Self { rows })
    }

    /// The largest absolute difference of an output from it; infinite for what is not a number or of another size.
    pub(super) fn error_of(&self, case: &Case, output: &[f32]) -> f32 {
        let row = case.sequence * case.subject.sizes.hidden;
        if output.len() != case.batch * row || self.rows.is_empty() {
            return f32::INFINITY;
        }
        let rows = output.chunks_exact(row).zip(self.rows.chunks_exact(row).cycle());
        let differences = rows.flat_map(|(got, want)| got.iter().zip(want).map(|(g, w)| (g - w).abs()));
        differences.fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
    }
}

impl Case {
    /// The output as the oracle gives it, in `f64` inside each operator, on the graph before any pass.
    fn computed(&self, model: &Model) -> Result<Vec<f32>, Fault> {
        // A shape that is none of the model's buckets is computed in the next one and cut, as answers are.
        let prepared = model.prepare(&self.inputs()?, &[OUTPUT.to_owned()])?;
        let graph = model.graph(prepared.bucket, &[OUTPUT])?;
        let path = self.subject.folder.join("model.safetensors");
        let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let file = SafeTensors::deserialize(&bytes)?;
        let weight = |id| {
            let view = file.tensor(&graph.value(id).name).ok()?;
            let dtype: DType = format!("{:?}", view.dtype()).parse().ok()?;
            Tensor::new(dtype, view.shape().to_vec(), view.data().to_vec().into()).ok()
        };
        let outputs = prepared.crop.apply(oracle::run(&graph, &weight, &prepared.tensors)?)?;
        let (_, output) = outputs.into_iter().next().ok_or("the reference gave nothing")?;
        Ok(output.to_f32()?.into_owned())
    }
}
