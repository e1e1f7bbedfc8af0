//! `tabpool run`: one request, tensors in and tensors out, with a comparison against reference outputs where wanted.
//!
//! Everything that can be wrong with the model, the file and the request is found before a browser is started.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use tabpool::{ApiKind, Precision, Signature, Target, Tensor, Timing, WorkerView};

use self::compare::{Comparison, compare};
use self::request::{Asked, Request};
use crate::context::Context;
use crate::failure::Verdict;
use crate::quantity::{duration, milliseconds};
use crate::session::{Measuring, builder, with_accelerator, worker_name, worker_view};
use crate::tensors::{TensorFile, write};
use crate::terminal::Terminal;

mod compare;
mod request;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model's name in the library, or its folder
    model: String,

    /// The safetensors file with the inputs, named as the model names them
    ///
    /// Names may begin with `input.`; tensors whose names begin with `output.` are left alone, so a reference file that
    /// holds both sides of a run serves as it is.
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,

    /// The safetensors file to write the outputs to
    #[arg(long, short, value_name = "FILE", required_unless_present = "compare")]
    output: Option<PathBuf>,

    /// Which of the model's entry points to run, as in text, vision or encoder [default: the one whose inputs are given]
    ///
    /// Without it the model as a whole is run, or the one part of it that takes just these inputs. With it, inputs that only
    /// other entry points take are left alone, so a reference file for all of them serves as it is.
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,

    /// Which of the outputs, separated by commas [default: all but the pooled embedding]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    outputs: Vec<String>,

    /// Where to run it: a browser or native, an API, or both, as in chromium:webgpu, native:cpu, firefox
    #[arg(long, value_name = "TARGET")]
    on: Option<Target>,

    /// The least exact arithmetic that linear layers may be computed with: f32, f16 or int8
    ///
    /// Each worker takes what is fastest on its device among what is permitted, and says what that was.
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::F32)]
    precision: Precision,

    /// Which case of a reference file that holds several
    #[arg(long, value_name = "NAME")]
    case: Option<String>,

    /// Compare the outputs with those of a reference file, and fail where they differ by more than the tolerance
    ///
    /// Positions whose attention_mask is 0 hold whatever the reference left there and are not compared.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,

    /// How far a value may be from the reference: TOLERANCE + TOLERANCE * |reference|
    #[arg(long, value_name = "TOLERANCE", default_value_t = 1e-4, value_parser = tolerance)]
    tolerance: f64,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("not a number from 0 on".to_owned()) }
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let case = arguments.case.as_deref();
    let inputs = TensorFile::read(&arguments.input)?.inputs(case)?;
    let reference = match &arguments.compare {
        Some(path) => Some(TensorFile::read(path)?.outputs(case)?),
        None => None,
    };
    let library = context.library()?;
    let _in_use = library.in_use()?;
    let resolved = context.resolve(&library, &arguments.model).await?;
    let model = library.open_model(&resolved.root)?;
    let asked = Asked {
        entry: arguments.entry.as_deref(),
        outputs: &arguments.outputs,
        input: arguments.input.display().to_string(),
        model: &resolved.name,
    };
    let Request { entry, pictures, signature, inputs, outputs } =
        Request::of(&asked, model, inputs, reference.as_ref())?;

    let targets: Vec<Target> = arguments.on.into_iter().collect();
    let (name, root) = (resolved.name.clone(), resolved.root);
    let mask = inputs.iter().find(|(name, _)| name == "attention_mask").map(|(_, tensor)| tensor.clone());
    let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let (answer, worker) = with_accelerator(
        context,
        Measuring::Wanted,
        || builder(context, &targets),
        async |accelerator| {
            let model = accelerator.accelerate_model(&name).root(root).on(arguments.on.unwrap_or_default());
            let model = model.precision(arguments.precision).await?;
            let mut handle = model.handle().entry(entry)?;
            if let Some([height, width]) = pictures {
                handle = handle.for_pictures(height, width).await?;
            }
            let answer = handle.run_for(inputs, &names).await?;
            let worker = worker_view(accelerator, answer.worker);
            Ok((answer, worker))
        },
    )
    .await?;

    if let Some(path) = &arguments.output {
        write(path, &answer.outputs)?;
    }
    let compared = reference
        .map(|reference| compared(&answer.outputs, &reference, mask.as_ref(), &signature, arguments.tolerance));
    let compared = compared.transpose()?.unwrap_or_default();
    let verdict = if compared.iter().all(|(_, one)| one.beyond == 0) { Verdict::Fine } else { Verdict::Bad };
    let said = Said { model: &resolved.name, root: root.to_string(), entry, worker: worker.as_ref(), api: answer.api };
    if arguments.json {
        context.terminal.print_json(&said.json(&answer, &compared, verdict))?;
    } else {
        let mut text = said.text(&answer, &compared, &context.terminal);
        if let Some(path) = &arguments.output {
            text.push_str(&format!("wrote {}\n", path.display()));
        }
        context.terminal.print(&text)?;
    }
    Ok(verdict)
}

/// Each output that the reference has, held against it.
fn compared(
    outputs: &[(String, Tensor)],
    reference: &BTreeMap<String, Tensor>,
    mask: Option<&Tensor>,
    signature: &Signature,
    tolerance: f64,
) -> Result<Vec<(String, Comparison)>> {
    let mut all = Vec::new();
    for (name, got) in outputs {
        let Some(want) = reference.get(name) else { continue };
        let real = match (signature.output(name), mask) {
            (Some(output), Some(mask)) => signature.real_positions(output, mask)?,
            _ => None,
        };
        let one = compare(got, want, real.as_ref(), tolerance).with_context(|| format!("output {name:?}"))?;
        all.push((name.clone(), one));
    }
    Ok(all)
}

/// What is told of a run.
struct Said<'a> {
    model: &'a str,
    root: String,
    entry: &'static str,
    worker: Option<&'a WorkerView>,
    api: ApiKind,
}

impl Said<'_> {
    fn text(&self, answer: &tabpool::Answer, compared: &[(String, Comparison)], terminal: &Terminal) -> String {
        let worker = self.worker.map_or_else(|| answer.worker.to_string(), worker_name);
        let adapter = self.worker.and_then(|worker| worker.adapter(self.api)).filter(|adapter| !adapter.is_empty());
        let adapter = adapter.map_or_else(String::new, |adapter| format!(" ({adapter})"));
        let (model, precision) = (terminal.bold(self.model), answer.precision);
        // The entry point that stands for a model goes without saying.
        let entry = if self.entry == "model" { String::new() } else { format!(" ({})", self.entry) };
        let mut text = format!("{model}{entry} on {worker} {} in {precision}{adapter}\n", self.api);
        let width = answer.outputs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, tensor) in &answer.outputs {
            text.push_str(&format!("  {name:width$}  {} {}", tensor.dtype(), tensor.shape()));
            if let Some((_, one)) = compared.iter().find(|(of, _)| of == name) {
                let mark =
                    if one.beyond == 0 { terminal.styled("within", "32") } else { terminal.styled("BEYOND", "1;31") };
                text.push_str(&format!("  worst {:.2e}, {mark} tolerance", one.worst));
                if one.beyond > 0 {
                    text.push_str(&format!(" in {} of {} values", one.beyond, one.values));
                }
            }
            text.push('\n');
        }
        let Timing { queue_wait, transfer, compute, readback, total } = answer.timing;
        let parts = [("waiting", queue_wait), ("transfer", transfer), ("compute", compute), ("readback", readback)];
        let parts = parts.map(|(name, time)| format!("{name} {}", duration(time))).join(", ");
        text.push_str(&terminal.dim(&format!("{}: {parts}", duration(total))));
        text.push('\n');
        text
    }

    fn json<'a>(
        &'a self,
        answer: &'a tabpool::Answer,
        compared: &'a [(String, Comparison)],
        verdict: Verdict,
    ) -> RunJson<'a> {
        let Timing { queue_wait, transfer, compute, readback, total } = answer.timing;
        RunJson {
            model: self.model,
            root: &self.root,
            entry: self.entry,
            worker: WorkerJson {
                id: answer.worker.0,
                kind: self.worker.map(|worker| worker.kind.to_string()),
                browser: self.worker.map(|worker| worker.capabilities.browser.as_str()),
                version: self.worker.map(|worker| worker.capabilities.version.as_str()),
                os: self.worker.map(|worker| worker.capabilities.os.as_str()),
                adapter: self.worker.and_then(|worker| worker.adapter(self.api)),
            },
            api: self.api.name(),
            precision: answer.precision.name(),
            attempts: answer.attempts,
            timing: TimingJson {
                queue_wait_ms: milliseconds(queue_wait),
                transfer_ms: milliseconds(transfer),
                compute_ms: milliseconds(compute),
                readback_ms: milliseconds(readback),
                total_ms: milliseconds(total),
            },
            outputs: answer
                .outputs
                .iter()
                .map(|(name, tensor)| OutputJson {
                    name,
                    dtype: tensor.dtype().name(),
                    shape: tensor.shape().dims(),
                    comparison: compared.iter().find(|(of, _)| of == name).map(|(_, one)| one),
                })
                .collect(),
            within_tolerance: (!compared.is_empty()).then_some(verdict == Verdict::Fine),
        }
    }
}

#[derive(Serialize)]
struct RunJson<'a> {
    model: &'a str,
    root: &'a str,
    entry: &'a str,
    worker: WorkerJson<'a>,
    api: &'a str,
    precision: &'a str,
    attempts: u32,
    timing: TimingJson,
    outputs: Vec<OutputJson<'a>>,
    within_tolerance: Option<bool>,
}

#[derive(Serialize)]
struct WorkerJson<'a> {
    id: u64,
    kind: Option<String>,
    browser: Option<&'a str>,
    version: Option<&'a str>,
    os: Option<&'a str>,
    adapter: Option<String>,
}

#[derive(Serialize)]
struct TimingJson {
    queue_wait_ms: f64,
    transfer_ms: f64,
    compute_ms: f64,
    readback_ms: f64,
    total_ms: f64,
}

#[derive(Serialize)]
struct OutputJson<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: &'a [usize],
    comparison: Option<&'a Comparison>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::arguments::Arguments;
    use crate::commands::Command;

    fn parse(line: &str) -> Result<super::Arguments, clap::Error> {
        let arguments = Arguments::try_parse_from(line.split(' '))?;
        let Command::Run(arguments) = arguments.command else { panic!("not run: {line}") };
        Ok(arguments)
    }

    #[test]
    fn a_run_needs_a_model_inputs_and_somewhere_for_the_outputs() {
        let run = parse("tabpool run m --input i --output o --on firefox:webgpu --outputs a,b").expect("fits");
        assert_eq!(run.outputs, ["a", "b"]);
        assert_eq!(run.on.map(|target| target.to_string()).as_deref(), Some("firefox:webgpu"));
        assert!(parse("tabpool run m --input i --compare c").is_ok(), "comparing is a reason to run");
        for line in ["tabpool run", "tabpool run m --output o", "tabpool run m --input i"] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2);
        }
    }

    #[test]
    fn targets_and_tolerances_that_make_no_sense_are_refused_by_name() {
        let error = parse("tabpool run m -i i -o o --on netscape:cpu").expect_err("unknown").to_string();
        assert!(error.contains("netscape"), "{error}");
        for tolerance in ["x", "-1", "NaN", "inf"] {
            assert!(parse(&format!("tabpool run m -i i -c c -o o --tolerance={tolerance}")).is_err(), "{tolerance}");
        }
    }
}
