//! `tabpool classify`: what pictures, sounds or texts are, by the labels of the model's own head or by the caller's.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use tabpool::{Answers, Library, Model, ModelKind, Picture, Resolved, ScoredLabel, Scores, Sound, ZeroShot};
use tabpool_models::Model as ModelFolder;

use crate::arriving::{each_file, each_text, given, standard_input};
use crate::context::Context;
use crate::failure::{Hinted, Verdict};
use crate::media::{PICTURES, SOUNDS};
use crate::placing::{Placing, hears, reads_texts, takes_pictures, takes_sounds};
use crate::terminal::{Terminal, shortened};

/// Arguments of `classify`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model's name in the library, or its folder
    model: String,

    /// Pictures (PNG, JPEG, WebP, GIF, BMP) or sounds (WAV, FLAC, MP3, Ogg Vorbis), after what the model takes
    #[arg(value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    files: Vec<PathBuf>,

    /// Texts instead of files, or - for one text a line on standard input
    #[arg(long, num_args = 1.., value_name = "TEXT")]
    text: Vec<String>,

    /// Labels of your own, with commas between: for models of two towers (CLIP, SigLIP, CLAP) and of entailment
    #[arg(long, value_delimiter = ',', value_name = "LABEL,…")]
    labels: Vec<String>,

    /// What is said of a label of your own, with {} in its place [default: This is a photo of {}., or what the model needs]
    #[arg(long, requires = "labels", value_name = "TEXT")]
    template: Option<String>,

    /// Labels shown of each input at most
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    top: usize,

    #[command(flatten)]
    placing: Placing,

    /// Print JSON, one object a line: {"file": …, "labels": [{"label": …, "score": …}]}, or "text" instead of "file"
    ///
    /// That is also what is printed when standard output is no terminal.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let Arguments { model: name, files, text, placing, .. } = arguments;
    let printer = &Printer { terminal: &context.terminal, json: arguments.json || !context.terminal.output };
    let labels: Vec<_> = arguments.labels.iter().map(|label| label.trim()).filter(|label| !label.is_empty()).collect();
    if !arguments.labels.is_empty() && labels.is_empty() {
        bail!(Hinted::new("--labels names none", "as in --labels cat,dog"));
    }
    // Which kind of file a model takes is known before it is opened for real.
    let library = context.library()?;
    let resolved = context.resolve(&library, name).await?;
    let hears = hears(&library.open_model(&resolved.root)?);
    let kind = match (text.is_empty(), hears) {
        (false, _) => ModelKind::Text,
        (true, true) => ModelKind::Audio,
        (true, false) => ModelKind::Vision,
    };
    let check = |library: &Library, resolved: &Resolved, model: &ModelFolder| {
        let own = !labels.is_empty();
        if own && !model.entries().any(|entry| entry.signature().input("input_ids").is_some()) {
            bail!(Hinted::new(
                "the model reads no texts, so it compares nothing with labels",
                "its own are used without --labels"
            ));
        }
        match kind {
            ModelKind::Text => {}
            ModelKind::Audio => takes_sounds(library, resolved, model)?,
            _ => takes_pictures(library, resolved, model)?,
        }
        if own || kind == ModelKind::Text { reads_texts(library, resolved, model) } else { Ok(()) }
    };
    let work = async |model: &Model| {
        let own = match labels.is_empty() {
            true => None,
            false => Some(model.zero_shot(&labels, arguments.template.as_deref()).await?),
        };
        let classes = Classes { model, own: own.as_ref(), top: arguments.top };
        let scores =
            own.as_ref().map_or_else(|| model.labels().map(|labels| labels.scores()), |_| Ok(Scores::Softmax))?;
        let show = |names: &[String], answers: Answers<_>| printer.render("file", names, answers.values(), scores);
        match kind {
            ModelKind::Text => {
                let lines = if text == &["-"] { standard_input() } else { given(text) };
                let mut cut = 0;
                let classify = |texts: Vec<String>| async move {
                    let answers = classes.of_texts(&texts).await?;
                    Ok((texts, answers))
                };
                each_text(lines, classify, |(texts, answers)| {
                    cut += answers.truncated().len() as u64;
                    context.terminal.print(&printer.render("text", &texts, answers.values(), scores)?)
                })
                .await?;
                context.warn_of_cut(cut, model)
            }
            ModelKind::Audio => {
                let classify = |sounds: Vec<Sound>| async move { classes.of_sounds(&sounds).await };
                each_file(context, files, &SOUNDS, classify, show).await
            }
            _ => {
                let classify = |pictures: Vec<Picture>| async move { classes.of_pictures(&pictures).await };
                each_file(context, files, &PICTURES, classify, show).await
            }
        }
    };
    placing.with_model(context, name, kind, check, work).await?;
    Ok(Verdict::Fine)
}

type Labelled = Answers<Vec<ScoredLabel>>;

/// A model's own classes, or the caller's.
#[derive(Clone, Copy)]
struct Classes<'a> {
    model: &'a Model,
    own: Option<&'a ZeroShot>,
    top: usize,
}

impl Classes<'_> {
    async fn of_texts(&self, texts: &[String]) -> Result<Labelled> {
        Ok(match self.own {
            Some(own) => own.classify_texts(texts, self.top).await?,
            None => self.model.classify_texts(texts, self.top).await?,
        })
    }

    async fn of_pictures(&self, pictures: &[Picture]) -> Result<Labelled> {
        Ok(match self.own {
            Some(own) => own.classify_images(pictures, self.top).await?,
            None => self.model.classify_images(pictures, self.top).await?,
        })
    }

    async fn of_sounds(&self, sounds: &[Sound]) -> Result<Labelled> {
        match self.own {
            Some(own) => Ok(own.classify_sounds(sounds, self.top).await?),
            None => {
                bail!(Hinted::new("the model has no classes of sounds", "give labels of your own: --labels dog,rain"))
            }
        }
    }
}

/// Puts labels into words.
struct Printer<'a> {
    terminal: &'a Terminal,
    json: bool,
}

impl Printer<'_> {
    fn render(&self, what: &str, names: &[String], all: &[Vec<ScoredLabel>], scores: Scores) -> Result<String> {
        let mut out = String::new();
        for (name, labels) in names.iter().zip(all) {
            if self.json {
                let labels: Vec<_> = labels.iter().map(|l| json!({"label": l.label, "score": l.score})).collect();
                out.push_str(&serde_json::to_string(&json!({what: name, "labels": labels}))?);
                out.push('\n');
                continue;
            }
            out.push_str(&self.terminal.bold(&shortened(name, self.terminal.width)));
            out.push('\n');
            for ScoredLabel { label, score, .. } in labels {
                let score = match scores {
                    Scores::Raw => format!("{score:>9.4}"),
                    Scores::Softmax | Scores::Sigmoid => format!("{:>7.1} %", score * 100.0),
                };
                out.push_str(&format!("{score}  {}\n", shortened(label, self.terminal.width.saturating_sub(11))));
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use tabpool::{ScoredLabel, Scores};

    use super::Printer;
    use crate::terminal::Terminal;

    #[test]
    fn scores_are_percent_where_they_are_probabilities() {
        let terminal = Terminal::plain(40);
        let labels = [("cat", 0.921), ("dog", 0.079)];
        let labels = labels.map(|(label, score)| ScoredLabel { index: 0, label: label.to_owned(), score }).to_vec();
        let render = |json, scores| {
            let printer = Printer { terminal: &terminal, json };
            printer.render("file", &["x.png".to_owned()], std::slice::from_ref(&labels), scores).expect("JSON")
        };
        assert_eq!(render(false, Scores::Softmax), "x.png\n   92.1 %  cat\n    7.9 %  dog\n");
        assert_eq!(render(false, Scores::Raw), "x.png\n   0.9210  cat\n   0.0790  dog\n");
        assert!(render(true, Scores::Softmax).starts_with(r#"{"file":"x.png","labels":[{"label":"cat","score":0.92"#));
    }
}
