//! From a picture, a sound or a prompt to an answer with one command, on the native worker: what comes out, in which order,
//! and what happens to files that are no pictures.

use std::path::Path;

use serde_json::Value;

use crate::program::{Program, Said, fixture};

const ON: [&str; 2] = ["--on", "native:cpu"];

/// Runs the program on the native worker.
fn native(program: &Program, arguments: &[&str]) -> Said {
    program.run(&[arguments, &ON[..]].concat())
}

fn lines(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn picture() -> String {
    fixture("preprocessing/image/picture.png")
}

fn sound() -> String {
    fixture("preprocessing/audio/mono_16k.wav")
}

#[test]
fn pictures_are_classified_in_their_order_and_bad_files_are_named() {
    let program = Program::new();
    let (model, good) = (fixture("vit_classifier"), picture());
    let bad = program.path("bad.png").to_string_lossy().into_owned();
    std::fs::write(&bad, "no picture").expect("written");
    let missing = program.path("missing.png").to_string_lossy().into_owned();
    let other = fixture("media/pictures/turned.jpg");
    let said =
        native(&program, &["classify", &model, &good, &bad, &other, &missing, &good, "--top", "2"]).ended_with(1);
    let answers = lines(&said.output);
    let files: Vec<_> = answers.iter().map(|answer| answer["file"].as_str().expect("a name")).collect();
    assert_eq!(files, [&good, &other, &good], "the others are answered, in order");
    assert_eq!(answers[0]["labels"], answers[2]["labels"]);
    assert_eq!(answers[0]["labels"].as_array().expect("a list").len(), 2);
    let told: Vec<_> = said.error.lines().collect();
    assert!(told[0].starts_with("warning: cannot read") && told[0].contains("bad.png: the picture cannot"), "{told:?}");
    assert!(told[1].contains("missing.png: No such file"), "{told:?}");
    assert_eq!(told[2..], ["error: 2 of 5 files could not be read"]);

    native(&program, &["classify", &model, &bad]).refused_with("bad.png: the picture cannot be decoded", "");
}

#[test]
fn labels_of_ones_own_are_compared_with_pictures_and_sounds() {
    let program = Program::new();
    for (model, file) in [("clip", picture()), ("clap", fixture("preprocessing/audio/mono_48k.wav"))] {
        let labels = "a night train, a small door,rain";
        let said = native(&program, &["classify", &fixture(model), &file, "--labels", labels]).ended_with(0);
        let answers = lines(&said.output);
        let labels = answers[0]["labels"].as_array().expect("a list");
        let sum: f64 = labels.iter().map(|label| label["score"].as_f64().expect("a number")).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{model}: {labels:?}");
        let mut names: Vec<_> = labels.iter().map(|label| label["label"].as_str().expect("a name")).collect();
        names.sort_unstable();
        assert_eq!(names, ["a night train", "a small door", "rain"], "{model}");
    }
    native(&program, &["classify", &fixture("clap"), &sound()]).refused_with("has no classes of sounds", "--labels");
    let picture = picture();
    native(&program, &["classify", &fixture("bert"), &picture]).refused_with("takes no pictures", "vit");
    let wordless = native(&program, &["classify", &fixture("vit_classifier"), &picture, "--labels", "cat,dog"]);
    wordless.refused_with("reads no texts", "without --labels");
    program.run(&["classify", &fixture("clip"), &picture, "--labels", " , "]).refused_with("names none", "cat,dog");
}

#[test]
fn pictures_sounds_and_texts_of_two_towers_become_vectors_of_one_length() {
    let program = Program::new();
    let vectors = |arguments: &[&str]| {
        let answers = lines(&native(&program, arguments).ended_with(0).output);
        let vector = |answer: &Value| -> Vec<f64> {
            answer["embedding"].as_array().expect("a list").iter().map(|one| one.as_f64().expect("a number")).collect()
        };
        answers.iter().map(vector).collect::<Vec<_>>()
    };
    let (clip, clap) = (fixture("clip"), fixture("clap"));
    let pictures = vectors(&["embed", &clip, "--image", &picture(), &picture()]);
    let texts = vectors(&["embed", &clip, "the night train"]);
    assert_eq!((pictures.len(), pictures[0].len(), texts[0].len()), (2, 32, 32));
    let sounds = vectors(&["embed", &clap, "--audio", &sound()]);
    for vector in [&pictures[0], &texts[0], &sounds[0]] {
        let length: f64 = vector.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    native(&program, &["embed", &clip, "--audio", &sound()]).refused_with("takes no sounds", "clap");
}

#[test]
fn a_sound_becomes_text_subtitles_and_json() {
    let program = Program::new();
    let (model, sound) = (fixture("wav2vec2"), sound());
    let transcribe =
        |more: &[&str]| native(&program, &[&["transcribe", &model, &sound], more].concat()).ended_with(0).output;
    let text = transcribe(&[]);
    assert!(!text.trim().is_empty() && text.lines().count() == 1, "{text:?}");
    let json: Value = serde_json::from_str(&transcribe(&["--json"])).expect("JSON");
    assert_eq!(json["text"], text.trim());
    assert_eq!(json["file"], sound.as_str());
    let words = json["words"].as_array().expect("words");
    assert!(words.iter().all(|word| word["start"].as_f64() < word["end"].as_f64()), "{words:?}");
    assert!(transcribe(&["--timestamps"]).starts_with("[00:0"));
    assert!(transcribe(&["--format", "srt"]).starts_with("1\n00:00:0"));
    assert!(transcribe(&["--format", "vtt"]).starts_with("WEBVTT\n\n00:00:0"));
    let both = native(&program, &["transcribe", &model, &sound, &sound]).ended_with(0).output;
    assert_eq!(both, format!("{sound}\n{text}{sound}\n{text}"));
    program.run(&["transcribe", &model, &sound, &sound, "--format", "srt"]).refused_with("run together", "one file");
    native(&program, &["transcribe", &model, &sound, "--language", "fr"])
        .refused_with("no choice of language", "Whisper");
}

#[test]
fn texts_are_compared_classified_and_put_into_order() {
    let program = Program::new();
    let said = native(&program, &["similarity", &fixture("bert"), "rain", "rain", "A quiet map."]).ended_with(0);
    let answers = lines(&said.output);
    assert!((answers[0]["similarity"].as_f64().expect("a number") - 1.0).abs() < 1e-5, "{answers:?}");
    assert!(answers[1]["similarity"].as_f64() < answers[0]["similarity"].as_f64(), "{answers:?}");

    // A head with a tokenizer of a few words.
    let head = |name: &str| {
        let folder = program.path(name);
        std::fs::create_dir(&folder).expect("made");
        for file in ["config.json", "model.safetensors"] {
            let from = Path::new(&fixture("heads")).join(name).join(file);
            std::fs::copy(from, folder.join(file)).expect("copies");
        }
        let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nrain\nmap\nrivers\nquiet\n";
        std::fs::write(folder.join("vocab.txt"), words).expect("written");
        folder.to_string_lossy().into_owned()
    };
    let (classes, ranks) = (head("bert_sequence"), head("roberta_sequence"));
    let classify = ["classify", &classes, "--text", "-", "--top", "1"];
    let said = program.run_with_input(&[&classify[..], &ON[..]].concat(), b"rain\nquiet rivers\n").ended_with(0);
    let answers = lines(&said.output);
    assert_eq!(answers.iter().map(|answer| &answer["text"]).collect::<Vec<_>>(), ["rain", "quiet rivers"]);
    assert!(answers[0]["labels"][0]["label"].as_str().is_some_and(|label| label.starts_with("LABEL_")), "{answers:?}");

    let documents: Vec<String> =
        (0..600).map(|n| ["rain", "map map", "quiet rivers"][n % 3].repeat(n % 7 + 1)).collect();
    let rerank = ["rerank", &ranks, "rivers", "--file", "-", "--top", "20"];
    let input = documents.join("\n");
    let said = program.run_with_input(&[&rerank[..], &ON[..]].concat(), input.as_bytes()).ended_with(0);
    let best = lines(&said.output);
    assert_eq!(best.len(), 20);
    let score = |answer: &Value| answer["score"].as_f64().expect("a number");
    assert!(best.windows(2).all(|pair| score(&pair[0]) >= score(&pair[1])));
    for one in &best {
        let place = usize::try_from(one["document"].as_u64().expect("a place")).expect("small");
        assert_eq!(one["text"], documents[place].as_str());
    }
    native(&program, &["rerank", &classes, "rivers", "rain"]).refused_with("tells 3 classes apart", "cross-encoder");
}
