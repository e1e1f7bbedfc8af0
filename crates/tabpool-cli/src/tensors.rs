//! Tensors in files: safetensors in and out, and the names that reference files give them.
//!
//! A plain file names tensors as the model does. A reference file holds both sides of a run, `input.input_ids` and
//! `output.last_hidden_state`, and may hold several runs, each under a name of its own: `sentence1.input.input_ids`.
//! Here such a name is taken apart once; what the rest of the program sees are the model's own names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tabpool::{DType, Tensor};

use crate::failure::Hinted;

/// Files larger than this are no inputs or outputs of a run.
const MOST_BYTES: u64 = 2 << 30;

/// Which side of a run a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SideOfRun {
    /// It says that it goes in.
    Input,
    /// It says that it comes out.
    Output,
    /// It does not say.
    Plain,
}

/// The tensors of a file.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: String,
    /// By case (empty where the file has no cases), side and the model's own name.
    tensors: BTreeMap<(String, SideOfRun, String), Tensor>,
}

impl TensorFile {
    /// Reads a file whole.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let size = fs::metadata(path).with_context(|| format!("cannot open {shown}"))?.len();
        if size > MOST_BYTES {
            bail!("{shown} has {size} bytes: inputs of a run are limited to {MOST_BYTES}");
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        let parsed = SafeTensors::deserialize(&bytes).map_err(|error| {
            let message = format!("{shown} is not a valid safetensors file: {error}");
            Hinted::new(message, "tensors are written with safetensors.torch.save_file or safetensors.numpy.save_file")
        })?;
        let mut tensors = BTreeMap::new();
        for (name, view) in parsed.iter() {
            let tensor = tensor_of(&view).with_context(|| format!("{shown}: tensor {name:?}"))?;
            if tensors.insert(split(name), tensor).is_some() {
                bail!("{shown}: {name:?} and another name mean the same tensor");
            }
        }
        Ok(Self { path: shown, tensors })
    }

    /// What goes into a run: the tensors of a case that are not outputs.
    pub(crate) fn inputs(&self, case: Option<&str>) -> Result<Vec<(String, Tensor)>> {
        let case = self.case(case)?;
        let of_case = self.tensors.iter().filter(|((of, side, _), _)| *of == case && *side != SideOfRun::Output);
        let inputs: Vec<_> = of_case.map(|((_, _, name), tensor)| (name.clone(), tensor.clone())).collect();
        if inputs.is_empty() {
            let message = format!("{} holds no input tensors", self.path);
            return Err(Hinted::new(message, "name them as the model does, as in input_ids").into());
        }
        Ok(inputs)
    }

    /// What a run should give: the outputs of a case, or everything where the file does not say what is one.
    pub(crate) fn outputs(&self, case: Option<&str>) -> Result<BTreeMap<String, Tensor>> {
        let case = self.case(case)?;
        let side = |wanted: SideOfRun| {
            let of_case = self.tensors.iter().filter(move |((of, side, _), _)| *of == case && *side == wanted);
            of_case.map(|((_, _, name), tensor)| (name.clone(), tensor.clone())).collect::<BTreeMap<_, _>>()
        };
        let outputs = side(SideOfRun::Output);
        let outputs = if outputs.is_empty() { side(SideOfRun::Plain) } else { outputs };
        if outputs.is_empty() {
            bail!("{} holds no output tensors", self.path);
        }
        Ok(outputs)
    }

    /// The case meant: the one asked for, or the only one there is.
    fn case(&self, wanted: Option<&str>) -> Result<&str> {
        let cases: BTreeSet<&str> = self.tensors.keys().map(|(case, _, _)| case.as_str()).collect();
        let named = || cases.iter().filter(|case| !case.is_empty()).copied().collect::<Vec<_>>().join(", ");
        match (wanted, cases.len()) {
            (Some(wanted), _) => match cases.get(wanted) {
                Some(case) => Ok(case),
                None if named().is_empty() => bail!("{} has no cases, so there is no case {wanted:?}", self.path),
                None => bail!("{} has no case {wanted:?}; it has {}", self.path, named()),
            },
            (None, 0) => bail!("{} holds no tensors", self.path),
            (None, 1) => Ok(cases.first().copied().unwrap_or_default()),
            (None, _) if cases.contains("") => Ok(""),
            (None, _) => {
                let message = format!("{} holds several cases: {}", self.path, named());
                Err(Hinted::new(message, "choose one with --case").into())
            }
        }
    }
}

/// Writes tensors to a file that is there whole or not at all.
pub(crate) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| {
        let dtype = dtype_of(tensor.dtype()).with_context(|| format!("output {name:?}"))?;
        let view = TensorView::new(dtype, tensor.shape().dims().to_vec(), tensor.data());
        Ok((name.as_str(), view.with_context(|| format!("output {name:?}"))?))
    });
    let bytes = safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None)?;
    let shown = path.display();
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.part", std::process::id()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(&bytes)?;
        fs::rename(&partial, path)
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("cannot write {shown}"))
}

/// Takes a name apart: `sentence1.input.input_ids` is the input `input_ids` of the case `sentence1`.
fn split(name: &str) -> (String, SideOfRun, String) {
    for (word, side) in [("input.", SideOfRun::Input), ("output.", SideOfRun::Output)] {
        if let Some(own) = name.strip_prefix(word) {
            return (String::new(), side, own.to_owned());
        }
        if let Some((case, own)) = name.split_once(&format!(".{word}")) {
            return (case.to_owned(), side, own.to_owned());
        }
    }
    (String::new(), SideOfRun::Plain, name.to_owned())
}

fn tensor_of(view: &TensorView<'_>) -> Result<Tensor> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        other => bail!("the dtype {other:?} is not one that models take"),
    };
    Ok(Tensor::new(dtype, view.shape().to_vec(), view.data().to_vec().into())?)
}

fn dtype_of(dtype: DType) -> Result<Dtype> {
    Ok(match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F64 => Dtype::F64,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
        other => bail!("safetensors files hold no {other}"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use tabpool::{DType, Tensor};

    use super::{SideOfRun, TensorFile, split, write};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name).join("golden.safetensors")
    }

    fn names<T>(tensors: impl IntoIterator<Item = (String, T)>) -> Vec<String> {
        tensors.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn names_of_reference_files_are_taken_apart() {
        let parts = |name: &str| {
            let (case, side, own) = split(name);
            (case, side, own)
        };
        let of = |case: &str, side, own: &str| (case.to_owned(), side, own.to_owned());
        assert_eq!(parts("input_ids"), of("", SideOfRun::Plain, "input_ids"));
        assert_eq!(parts("input.input_ids"), of("", SideOfRun::Input, "input_ids"));
        assert_eq!(parts("case0.output.logits"), of("case0", SideOfRun::Output, "logits"));
    }

    #[test]
    fn a_reference_file_gives_inputs_and_outputs_under_the_models_names() {
        let file = TensorFile::read(&fixture("bert")).expect("a fixture");
        assert_eq!(names(file.inputs(None).expect("inputs")), ["attention_mask", "input_ids", "token_type_ids"]);
        assert_eq!(names(file.outputs(None).expect("outputs")), ["last_hidden_state", "pooler_output"]);
        assert!(file.inputs(Some("x")).expect_err("no cases").to_string().contains("has no cases"));
    }

    #[test]
    fn of_several_cases_one_has_to_be_chosen() {
        let file = TensorFile::read(&fixture("minilm")).expect("a fixture");
        let error = file.inputs(None).expect_err("which?").to_string();
        assert!(error.contains("sentence1, sentence11"), "{error}");
        assert_eq!(names(file.inputs(Some("sentence11")).expect("there")), ["input_ids"]);
        let error = file.outputs(Some("sentence2")).expect_err("not there").to_string();
        assert!(error.contains("has no case \"sentence2\""), "{error}");
    }

    #[test]
    fn what_is_written_reads_back_the_same_in_every_dtype() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("out.safetensors");
        let tensors: Vec<_> = DType::ALL
            .into_iter()
            .map(|dtype| {
                let bytes: Vec<u8> = (0..6 * dtype.size()).map(|byte| (byte % 2) as u8).collect();
                (dtype.to_string(), Tensor::new(dtype, [2, 3], bytes.into()).expect("fits"))
            })
            .collect();
        write(&path, &tensors).expect("written");
        let read = TensorFile::read(&path).expect("reads").outputs(None).expect("plain names");
        assert_eq!(read.len(), tensors.len());
        for (name, tensor) in &tensors {
            assert_eq!(read.get(name), Some(tensor), "{name}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1, "no partial file stays");
    }

    #[test]
    fn files_that_are_something_else_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("in.safetensors");
        let golden = fs::read(fixture("bert")).expect("a fixture");
        let mut lying = golden.clone();
        lying[0] = lying[0].wrapping_add(1);
        for bytes in [&b""[..], b"{}", &golden[..golden.len() - 1], &lying, &[0xff; 64]] {
            fs::write(&path, bytes).expect("written");
            let error = TensorFile::read(&path).expect_err("damaged").to_string();
            assert!(error.contains("in.safetensors is not a valid safetensors file"), "{error}");
        }
        let error = TensorFile::read(&folder.path().join("absent")).expect_err("absent");
        assert!(format!("{error:#}").contains("cannot open"), "{error:#}");
        let error = write(&folder.path().join("no/such/folder"), &[]).expect_err("no folder");
        assert!(format!("{error:#}").contains("cannot write"), "{error:#}");
    }
}
