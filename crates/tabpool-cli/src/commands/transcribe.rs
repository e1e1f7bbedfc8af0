//! `tabpool transcribe`: what is said in sounds, as text, subtitles or JSON.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tabpool::{Model, ModelKind, Segment, Sound, Task, Timestamps, TranscribeOptions, Transcription};

use crate::arriving::each_file;
use crate::context::Context;
use crate::failure::{Hinted, Verdict};
use crate::media::ONE_SOUND;
use crate::placing::{Placing, takes_sounds};
use crate::quantity::duration;

/// Arguments of `transcribe`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model's name in the library, or its folder
    model: String,

    /// Sounds of any length: WAV, FLAC, MP3 or Ogg Vorbis
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Say with the text when each part of it was said
    #[arg(long)]
    timestamps: bool,

    /// How it is written down
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "json")]
    format: Format,

    /// The language that is spoken, as in en or de, for models that know several [default: the model listens for it]
    #[arg(long, value_name = "CODE")]
    language: Option<String>,

    /// What is written down, for models that have the choice
    #[arg(long, value_enum, default_value_t = What::Transcribe)]
    task: What,

    #[command(flatten)]
    placing: Placing,

    /// Print JSON, as --format json
    #[arg(long)]
    json: bool,
}

/// How a transcript is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The text.
    Text,
    /// `SubRip` subtitles.
    Srt,
    /// `WebVTT`.
    Vtt,
    /// One object a line: file, text, segments, and words where the model tells when each was said.
    Json,
}

/// What is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// What was said, in its language.
    Transcribe,
    /// What was said, in English.
    Translate,
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let Arguments { model: name, files, timestamps, placing, .. } = arguments;
    let format = if arguments.json { Format::Json } else { arguments.format };
    if matches!(format, Format::Srt | Format::Vtt) && files.len() > 1 {
        bail!(Hinted::new(
            "subtitles of several sounds would run together",
            "give one file at a time, or --format json"
        ));
    }
    let timed = *timestamps || format != Format::Text;
    let options = &TranscribeOptions {
        language: arguments.language.clone(),
        task: match arguments.task {
            What::Transcribe => Task::Transcribe,
            What::Translate => Task::Translate,
        },
        timestamps: if timed { Timestamps::Written } else { Timestamps::Omitted },
    };
    let work = async |model: &Model| {
        let transcribe = |sounds: Vec<Sound>| async move {
            let mut all = Vec::new();
            for sound in &sounds {
                let length = duration(Duration::from_secs_f64(sound.seconds()));
                let _bar = context.bars.spinner(format!("listening to {length} of sound"));
                all.push(model.transcribe(sound, options).await?);
            }
            Ok(all)
        };
        let show = |names: &[String], all: Vec<Transcription>| {
            let mut out = String::new();
            for (name, one) in names.iter().zip(&all) {
                // Several texts need names, one does not.
                if files.len() > 1 && format == Format::Text {
                    out.push_str(&format!("{}\n", context.terminal.bold(name)));
                }
                out.push_str(&written(name, one, format, *timestamps)?);
            }
            Ok(out)
        };
        each_file(context, files, &ONE_SOUND, transcribe, show).await
    };
    placing.with_model(context, name, ModelKind::Audio, takes_sounds, work).await?;
    Ok(Verdict::Fine)
}

fn written(name: &str, one: &Transcription, format: Format, timestamps: bool) -> Result<String> {
    Ok(match format {
        Format::Srt => one.transcript.srt(),
        Format::Vtt => one.transcript.vtt(),
        Format::Json => format!("{}\n", serde_json::to_string(&described(name, one))?),
        Format::Text if timestamps => one.transcript.segments().iter().map(line).collect(),
        Format::Text => format!("{}\n", one.transcript.text()),
    })
}

/// A segment with its times.
fn line(segment: &Segment) -> String {
    format!("[{} → {}] {}\n", clock(segment.start_s), clock(segment.end_s), segment.text.trim())
}

/// Minutes and seconds, with hours where there are some.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times are finite and not negative")]
fn clock(seconds: f64) -> String {
    let all = (seconds * 100.0).round() as u64;
    let (hours, minutes, seconds, rest) = (all / 360_000, all / 6000 % 60, all / 100 % 60, all % 100);
    let hours = if hours > 0 { format!("{hours}:") } else { String::new() };
    format!("{hours}{minutes:02}:{seconds:02}.{rest:02}")
}

fn described(name: &str, one: &Transcription) -> Value {
    let mut described = one.transcript.json();
    described["file"] = json!(name);
    if let Some(language) = &one.language {
        described["language"] = json!(language);
    }
    if !one.words.is_empty() {
        let milliseconds = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
        let words = one.words.iter();
        let words =
            words.map(|w| json!({"word": w.text, "start": milliseconds(w.start_s), "end": milliseconds(w.end_s)}));
        described["words"] = words.collect();
    }
    described
}

#[cfg(test)]
mod tests {
    use super::clock;

    #[test]
    fn clocks_show_hours_only_where_there_are_some() {
        assert_eq!([0.0, 61.256, 3599.996, 3_723.5].map(clock), ["00:00.00", "01:01.26", "1:00:00.00", "1:02:03.50"]);
    }
}
