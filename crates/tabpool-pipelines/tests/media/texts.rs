//! Text out of models: token by token, from frames, with time stamps.

use proptest::prelude::{ProptestConfig, proptest};
use serde_json::Value;
use tabpool_content::{Directory, ImportOptions, MemoryStore, import_files, import_folder};
use tabpool_pipelines::ctc::{CtcDecoder, CtcWord};
use tabpool_pipelines::transcript::Transcript;
use tabpool_pipelines::{ConfigError, SpecialTokens, TextStream, Tokenizer};
use tabpool_tensor::Tensor;

use crate::golden::{fixture, json};

const KINDS: [&str; 7] =
    ["wordpiece", "roberta_bpe", "unigram", "metaspace_bpe", "clip_bpe", "byte_level_bpe", "unigram_charsmap"];

fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| u32::try_from(v.as_u64().expect("a number")).expect("an id");
    value.as_array().expect("a list").iter().map(id).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// What `read` makes of a fixture's folder.
fn with_folder<T>(path: &str, read: impl FnOnce(&Directory<'_>) -> T) -> T {
    let store = MemoryStore::new(1 << 26);
    let root = import_folder(&fixture(path), &store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
    read(&Directory::open(&store, &root).expect("opens"))
}

fn with_files<T>(files: &[(&str, &[u8])], read: impl FnOnce(&Directory<'_>) -> T) -> T {
    let store = MemoryStore::new(1 << 26);
    let root = import_files(files, &store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
    read(&Directory::open(&store, &root).expect("opens"))
}

fn tokenizer(kind: &str) -> Tokenizer {
    with_folder(&format!("preprocessing/tokenizers/{kind}"), |folder| Tokenizer::read(folder, "").expect("a tokenizer"))
}

#[test]
fn streams_give_the_pieces_that_the_library_gives() {
    let golden = json("media/streams.json");
    let mut pieces = 0;
    for kind in KINDS {
        let tokenizer = tokenizer(kind);
        for case in golden[kind].as_array().expect("cases") {
            let mut stream = TextStream::new(&[]).expect("no stops");
            for (id, want) in ids(&case["ids"]).into_iter().zip(case["pieces"].as_array().expect("pieces")) {
                let got = stream.push(&tokenizer, id).expect("decodes");
                assert_eq!(got.text, want.as_str().unwrap_or_default(), "{kind}: {}", case["ids"]);
                pieces += usize::from(!got.text.is_empty());
            }
        }
    }
    assert!(pieces > 1000, "{pieces}");
}

#[test]
fn a_whole_stream_is_the_decoded_text() {
    for kind in KINDS {
        let tokenizer = tokenizer(kind);
        for case in json(&format!("preprocessing/tokenizers/{kind}/golden.json"))["cases"].as_array().expect("cases") {
            let ids = ids(&case["ids"]);
            let mut stream = TextStream::new(&["never in a text"]).expect("a stop");
            let mut got = String::new();
            for &id in &ids {
                got.push_str(&stream.push(&tokenizer, id).expect("decodes").text);
            }
            got.push_str(&stream.finish(&tokenizer).expect("ends").text);
            assert_eq!(got, tokenizer.decode(&ids).expect("decodes"), "{kind}: {}", case["text"]);
        }
    }
}

/// All that comes out of a stream, and the stop that ended it.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], stops: &[&str]) -> (String, Option<usize>) {
    let mut stream = TextStream::new(stops).expect("good stops");
    let mut all = String::new();
    for &id in ids {
        all.push_str(&stream.push(tokenizer, id).expect("decodes").text);
    }
    let last = stream.finish(tokenizer).expect("ends");
    (all + &last.text, last.stop)
}

#[test]
fn stops_end_a_text_however_tokens_cut_them() {
    let tokenizer = tokenizer("byte_level_bpe");
    let ids = tokenizer.tokenize("two spaces before, two after", SpecialTokens::Omit).expect("tokenizes").ids;
    let (whole, _) = streamed(&tokenizer, &ids, &[]);
    for from in 1..whole.len() {
        for to in from + 1..=whole.len() {
            let stop = &whole[from..to];
            let first = whole.find(stop).expect("there");
            assert_eq!(streamed(&tokenizer, &ids, &["###", stop]), (whole[..first].to_owned(), Some(1)), "{stop:?}");
        }
    }
    // What only looks like a stop comes out after all.
    let near = format!("{}!", &whole[5..]);
    assert_eq!(streamed(&tokenizer, &ids, &[&near]), (whole, None));
    assert!(TextStream::new(&[""]).is_err() && TextStream::new(&["x"; 65]).is_err());
    assert!(TextStream::new(&[&"x".repeat(5000)]).is_err());
}

#[test]
fn damaged_utf8_comes_out_at_the_end_and_never_piles_up() {
    let tokenizer = tokenizer("byte_level_bpe");
    let sign = tokenizer.tokenize("\u{6771}", SpecialTokens::Omit).expect("tokenizes").ids;
    assert!(sign.len() > 1, "a sign of several tokens");
    assert_eq!(streamed(&tokenizer, &sign[..1], &[]), ("\u{fffd}".to_owned(), None));
    let mut stream = TextStream::new(&[]).expect("no stops");
    let mut got = 0;
    for _ in 0..5000 {
        got += stream.push(&tokenizer, sign[0]).expect("decodes").text.chars().count();
    }
    assert!((4000..=5000).contains(&got), "{got}");
}

#[test]
fn frames_give_the_texts_and_words_of_the_reference() {
    let decoder = with_folder("wav2vec2", |folder| CtcDecoder::read(folder, "").expect("a vocabulary"));
    let cases = json("media/ctc.json");
    for case in cases.as_array().expect("cases") {
        let got = decoder.decode_ids(&ids(&case["ids"])).expect("known ids");
        assert_eq!(got.text, text(&case["text"]));
        let words: Vec<_> = got.words.iter().map(|w| serde_json::json!([w.text, w.start, w.end])).collect();
        assert_eq!(Value::Array(words), case["words"], "{}", got.text);
    }
    assert_eq!(cases.as_array().expect("cases").len(), 14);
}

#[test]
fn logits_are_decoded_up_to_each_sounds_frames() {
    let decoder = with_folder("wav2vec2", |folder| CtcDecoder::read(folder, "").expect("a vocabulary"));
    // H, H, blank, I, |, A: the likeliest of 32 tokens in six frames; then the same with the last two frames silent.
    let spoken = [12usize, 12, 0, 13, 4, 5];
    let rows = |ids: &[usize]| {
        ids.iter().flat_map(|&id| (0..32).map(move |t| f32::from(u8::from(t == id)))).collect::<Vec<_>>()
    };
    let logits = Tensor::from_f32([2, 6, 32], [rows(&spoken), rows(&spoken)].concat()).expect("fits");
    let got = decoder.decode(&logits, Some(&[6, 4])).expect("decodes");
    assert_eq!((got[0].text.as_str(), got[1].text.as_str()), ("HI A", "HI"));
    assert_eq!(got[0].words[1], CtcWord { text: "A".to_owned(), start: 5, end: 6 });
    assert!(decoder.decode(&logits, Some(&[7, 4])).is_err() && decoder.decode(&logits, Some(&[6])).is_err());
    let flat = Tensor::from_f32([6, 64], vec![0.0; 384]).expect("fits");
    assert!(decoder.decode(&flat, None).is_err());
    let wide = Tensor::from_f32([1, 1, 40], (0..40u8).map(f32::from).collect()).expect("fits");
    assert!(decoder.decode(&wide, None).expect_err("no such token").to_string().contains("token 39"));
    // The published models: a frame every 20 ms, 49 of them in a second.
    let published = br#"{"<pad>": 0, "|": 1}"#;
    let published = with_files(&[("vocab.json", published)], |folder| CtcDecoder::read(folder, "").expect("good"));
    assert_eq!((published.frames(16_000), published.frames(100)), (49, 0));
    assert!((published.frame_s(16_000) - 0.02).abs() < 1e-12);
}

#[test]
fn vocabularies_that_cannot_be_are_refused() {
    let read = |vocabulary: &str, config: &str| {
        let files: [(&str, &[u8]); 2] =
            [("vocab.json", vocabulary.as_bytes()), ("tokenizer_config.json", config.as_bytes())];
        with_files(&files, |folder| CtcDecoder::read(folder, ""))
    };
    for (vocabulary, config, want) in [
        (r#"{"a": 0}"#, "{}", "vocab.json is not readable: it lacks the pad_token \"<pad>\""),
        (r#"{"<pad>": 0, "a": 0}"#, "{}", "vocab.json: a is 0, an id that another token has"),
        (r#"{"<pad>": 0, "a": 1e9}"#, "{}", "vocab.json: a is 1000000000.0, not an id"),
        (r#"{"<pad>": -1}"#, "{}", "vocab.json: <pad> is -1, not an id"),
        (r#"{"eng": {"<pad>": 0}}"#, "{}", "tokenizer_config.json: target_lang is null, but vocab.json"),
        (r#"{"eng": {"<pad>": 0}}"#, r#"{"target_lang": "fra"}"#, "tokenizer_config.json: target_lang is \"fra\", for"),
        (r#"{"<pad>": 0}"#, r#"{"pad_token": 7}"#, "tokenizer_config.json: pad_token is 7, neither"),
    ] {
        let err = read(vocabulary, config).expect_err(vocabulary).to_string();
        assert!(err.starts_with(want), "{err}");
    }
    let english = read(r#"{"eng": {"<pad>": 0, "a": 2}}"#, r#"{"target_lang": "eng"}"#).expect("one of several");
    assert_eq!(english.decode_ids(&[0, 2, 2]).expect("known").text, "a");
    assert!(english.decode_ids(&[1]).is_err(), "the vocabulary leaves 1 out");
    let absent = with_files(&[("a", b"")], |folder| CtcDecoder::read(folder, ""));
    assert!(matches!(absent, Err(ConfigError::Absent { file }) if file == "vocab.json"));
}

fn whisper() -> Tokenizer {
    with_folder("whisper", |folder| Tokenizer::read(folder, "").expect("a tokenizer"))
}

#[test]
fn time_stamps_become_the_segments_of_the_reference() {
    let (tokenizer, golden) = (whisper(), json("media/segments.json"));
    let begin = golden["timestamp_begin"].as_u64().expect("an id");
    assert_eq!(tokenizer.id("<|notimestamps|>").map(u64::from), Some(begin - 1));
    for case in golden["cases"].as_array().expect("cases") {
        let mut transcript = Transcript::new();
        transcript.push_window(&tokenizer, &ids(&case["ids"]), (0.0, 30.0)).expect("decodes");
        let want = case["segments"].as_array().expect("segments");
        assert_eq!(transcript.segments().len(), want.len());
        for (got, want) in transcript.segments().iter().zip(want) {
            assert_eq!(got.text, text(&want[0]));
            for (got, want) in [(got.start_s, &want[1]), (got.end_s, &want[2])] {
                assert!((got - want.as_f64().expect("seconds")).abs() < 1e-9, "{got} is not {want}");
            }
        }
    }
}

#[test]
fn transcripts_are_written_in_every_form() {
    let tokenizer = whisper();
    let stamp = |hundredths: u32| tokenizer.id("<|notimestamps|>").expect("Whisper's") + 1 + hundredths / 2;
    let words = |text: &str| tokenizer.tokenize(text, SpecialTokens::Omit).expect("tokenizes").ids;
    let mut transcript = Transcript::new();
    let first = [vec![stamp(50)], words(" A <b> & c"), vec![stamp(234), stamp(300)], words(" to --> be")].concat();
    transcript.push_window(&tokenizer, &first, (0.0, 30.0)).expect("decodes");
    // The second window is short: a time stamp beyond its end means its end.
    let second = [words(" cut"), vec![stamp(900)]].concat();
    transcript.push_window(&tokenizer, &second, (3630.0, 3631.5)).expect("decodes");
    transcript.push_window(&tokenizer, &[], (3631.5, 3640.0)).expect("nothing");
    assert_eq!(transcript.text(), "A <b> & c to --> be cut");
    assert_eq!(
        transcript.srt(),
        "1\n00:00:00,500 --> 00:00:02,340\nA <b> & c\n\n2\n00:00:03,000 --> 00:00:30,000\nto -> be\n\n\
         3\n01:00:30,000 --> 01:00:31,500\ncut\n\n"
    );
    assert_eq!(
        transcript.vtt(),
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.340\nA &lt;b> &amp; c\n\n00:00:03.000 --> 00:00:30.000\nto -> be\n\n\
         01:00:30.000 --> 01:00:31.500\ncut\n\n"
    );
    let json = transcript.json();
    assert_eq!(json["segments"][0], serde_json::json!({"id": 0, "start": 0.5, "end": 2.34, "text": " A <b> & c"}));
    assert_eq!(json["text"], "A <b> & c to --> be cut");
    assert!(Transcript::new().push_window(&self::tokenizer("wordpiece"), &[1], (0.0, 1.0)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_ids_stream_to_what_they_decode_to_or_fail(kind in 0..KINDS.len(), ids in proptest::collection::vec(0u32..700, 0..40)) {
        let tokenizer = tokenizer(KINDS[kind]);
        let mut stream = TextStream::new(&[]).expect("no stops");
        let mut got = String::new();
        let pushed = ids.iter().try_for_each(|&id| stream.push(&tokenizer, id).map(|piece| got.push_str(&piece.text)));
        if pushed.is_ok() && let Ok(last) = stream.finish(&tokenizer) {
            got.push_str(&last.text);
            // Special tokens between words may change spacing in what is decoded at once.
            let squeezed = |text: &str| text.split_whitespace().collect::<String>();
            let plain: Vec<u32> = ids.into_iter().filter(|&id| !tokenizer.is_special(id)).collect();
            assert_eq!(squeezed(&got), squeezed(&tokenizer.decode(&plain).expect("decodes")));
        }
    }
}

#[test]
fn whisper_is_told_language_task_and_times() {
    use tabpool_pipelines::whisper::{Task, Timestamps, WhisperPrompts};

    let prompts = with_folder("whisper", |folder| WhisperPrompts::read(folder, "").expect("prompts"));
    let french = prompts.language("fr").expect("known");
    assert_eq!((french, prompts.language_of(french).as_deref()), (313, Some("fr")));
    assert_eq!(prompts.language_of(314), None, "<|translate|> is no language");
    let prompt = |language, task, timestamps| prompts.prompt(language, task, timestamps).expect("a prompt");
    assert_eq!(prompt(Some(french), Task::Transcribe, Timestamps::Written), [313, 315]);
    assert_eq!(prompt(None, Task::Translate, Timestamps::Omitted), [314, 319]);
    for code in ["xx", "translate", "EN", ""] {
        assert!(prompts.language(code).is_err(), "{code:?}");
    }

    let tokenizer = std::fs::read(fixture("whisper/tokenizer.json")).expect("there");
    let files: &[(&str, &[u8])] =
        &[("tokenizer.json", &tokenizer), ("generation_config.json", br#"{"is_multilingual": false}"#)];
    let english = with_files(files, |folder| WhisperPrompts::read(folder, "").expect("prompts"));
    let prompt = english.prompt(Some(312), Task::Transcribe, Timestamps::Omitted).expect("a prompt");
    assert_eq!(prompt, [319], "a model of one language is told none");
    assert!(english.language("fr").is_err() && english.language("en").is_ok());
    assert!(english.prompt(None, Task::Translate, Timestamps::Written).is_err());
}
