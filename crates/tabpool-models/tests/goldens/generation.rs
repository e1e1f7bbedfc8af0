//! Generation on the oracle: greedy decoding gives the ids of the goldens, however a prompt is divided and padded.

use serde_json::Value;
use tabpool_models::{Choice, Generation, Plan, Stage};
use tabpool_tensor::Tensor;

use crate::fixture::{Fixture, Session, folder, tensors};

/// What a golden says of generation.
struct Golden {
    prompt: Vec<i32>,
    tokens: Vec<i32>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(folder(name).join("golden.json")).expect("a golden");
        let golden: Value = serde_json::from_str(&text).expect("JSON");
        let ids = |key: &str| {
            let list = golden["generation"][key].as_array().expect("ids");
            list.iter().map(|id| i32::try_from(id.as_i64().expect("an id")).expect("small")).collect()
        };
        Self { prompt: ids("prompt_ids"), tokens: ids("token_ids") }
    }
}

fn integers(dims: &[usize], values: &[i32]) -> Tensor {
    Tensor::from_i32(dims, values.to_vec()).expect("fits")
}

fn plan(batch: usize, chunk: usize) -> Plan {
    Plan { batch, capacity: 64, chunk, source: 1, choice: Choice::Greedy }
}

/// Reads prompts of one length chunk by chunk; the last output of the last chunk.
fn prefill(session: &mut Session<'_>, plan: &Plan, prompts: &[Vec<i32>], padding: &[i32]) -> Vec<Tensor> {
    let length = prompts[0].len();
    let mut outputs = Vec::new();
    for start in (0..length).step_by(plan.chunk) {
        let count = plan.chunk.min(length - start);
        let mut ids = Vec::new();
        for prompt in prompts {
            ids.extend_from_slice(&prompt[start..start + count]);
            ids.resize(ids.len() + plan.chunk - count, 0);
        }
        let one = |n: usize| integers(&[1], &[i32::try_from(n).expect("small")]);
        let mut inputs = vec![integers(&[plan.batch, plan.chunk], &ids), one(start), one(count)];
        if plan.batch > 1 {
            inputs.push(integers(&[plan.batch], padding));
        }
        outputs = session.run(Stage::Prefill, plan, &inputs);
    }
    outputs
}

/// The tokens of every sequence: what prefill says, and what steps without inputs say after it.
fn greedy(session: &mut Session<'_>, plan: &Plan, first: &[Tensor], count: usize) -> Vec<Vec<i32>> {
    let mut texts = vec![Vec::new(); plan.batch];
    let mut keep = |outputs: &[Tensor]| {
        for (text, &id) in texts.iter_mut().zip(outputs[0].to_i32().expect("ids").iter()) {
            text.push(id);
        }
    };
    keep(first);
    for _ in 1..count {
        keep(&session.run(Stage::Step, plan, &[]));
    }
    texts
}

const DECODERS: [&str; 4] = ["gpt2", "llama", "qwen2", "qwen3"];

#[test]
fn greedy_decoding_gives_the_golden_however_the_prompt_is_divided() {
    for name in DECODERS {
        let (fixture, golden) = (Fixture::open(&folder(name)), Golden::read(name));
        let generation = fixture.model.generation().expect("it generates");
        assert_eq!(generation.stages(), [Stage::Prefill, Stage::Step]);
        for chunk in [1, 3, 7, 16] {
            for mut session in [Session::new(&fixture), Session::on_processor(&fixture)] {
                let plan = plan(1, chunk);
                let first = prefill(&mut session, &plan, std::slice::from_ref(&golden.prompt), &[0]);
                let got = greedy(&mut session, &plan, &first, golden.tokens.len());
                assert_eq!(got[0], golden.tokens, "{name}, {chunk} tokens at once");
            }
        }
    }
}

#[test]
fn prompts_of_several_lengths_padded_on_the_left_give_what_each_gives_alone() {
    for name in DECODERS {
        let (fixture, golden) = (Fixture::open(&folder(name)), Golden::read(name));
        let shorter = golden.prompt[2..].to_vec();
        let alone = |prompt: &[i32]| {
            let (plan, mut session) = (plan(1, 16), Session::new(&fixture));
            let first = prefill(&mut session, &plan, &[prompt.to_vec()], &[0]);
            greedy(&mut session, &plan, &first, 12).remove(0)
        };
        let wanted = [alone(&golden.prompt), alone(&shorter), alone(&golden.prompt[..1])];
        let padded = |prompt: &[i32]| [vec![0; golden.prompt.len() - prompt.len()], prompt.to_vec()].concat();
        let prompts = [golden.prompt.clone(), padded(&shorter), padded(&golden.prompt[..1])];
        for chunk in [2, 7] {
            for mut session in [Session::new(&fixture), Session::on_processor(&fixture)] {
                let plan = plan(3, chunk);
                let length = i32::try_from(golden.prompt.len()).expect("short");
                let first = prefill(&mut session, &plan, &prompts, &[0, 2, length - 1]);
                assert_eq!(greedy(&mut session, &plan, &first, 12), wanted, "{name}, {chunk} tokens at once");
            }
        }
    }
}

#[test]
fn a_set_of_states_serves_the_next_text_as_it_is() {
    let (fixture, golden) = (Fixture::open(&folder("llama")), Golden::read("llama"));
    let (plan, mut session) = (plan(1, 4), Session::new(&fixture));
    let other: Vec<i32> = golden.prompt.iter().chain(&golden.tokens).rev().copied().collect();
    let first = prefill(&mut session, &plan, &[other], &[0]);
    greedy(&mut session, &plan, &first, 9);
    let first = prefill(&mut session, &plan, std::slice::from_ref(&golden.prompt), &[0]);
    assert_eq!(greedy(&mut session, &plan, &first, golden.tokens.len())[0], golden.tokens);
}

#[test]
fn steps_that_are_told_the_token_give_candidates_and_logits_of_the_whole() {
    for name in DECODERS {
        let (fixture, golden) = (Fixture::open(&folder(name)), Golden::read(name));
        let generation = fixture.model.generation().expect("it generates");
        let candidates = Plan { choice: Choice::Candidates(5), ..plan(1, 7) };
        let logits = Plan { choice: Choice::Logits, ..candidates };
        let prompt = std::slice::from_ref(&golden.prompt);
        let (mut few, mut all) = (Session::new(&fixture), Session::new(&fixture));
        let mut got = (prefill(&mut few, &candidates, prompt, &[0]), prefill(&mut all, &logits, prompt, &[0]));
        for &token in &golden.tokens {
            let (top, every) = (got.0[0].to_f32().expect("floats"), got.1[0].to_f32().expect("floats"));
            assert_eq!((top.len(), every.len()), (10, generation.vocabulary()));
            #[expect(clippy::cast_precision_loss, reason = "ids of a small vocabulary")]
            let chosen = token as f32;
            assert_eq!(top[5], chosen, "{name}: the likeliest candidate");
            let largest = every.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!((top[0] - largest).abs() < 1e-6 && top[0] > top[1], "{name}: {:?}", &top[..5]);
            let told = [integers(&[1], &[token])];
            got = (few.run(Stage::Step, &candidates, &told), all.run(Stage::Step, &logits, &told));
        }
    }
}

/// What an encoder reads: the inputs of its stage, and the length of the source in the plan.
fn source(name: &str, generation: &Generation<'_>, prompt: &[i32]) -> (usize, Vec<Tensor>) {
    let lengths = generation.source().expect("it has an encoder").1;
    if name == "whisper" {
        let golden = tensors(&folder(name).join("golden.safetensors"));
        return (lengths[0], vec![golden["input.input_features"].clone()]);
    }
    let length = lengths.into_iter().find(|&l| l >= prompt.len()).expect("short");
    let mut ids = prompt.to_vec();
    ids.resize(length, 0);
    let mask: Vec<i32> = (0..length).map(|i| i32::from(i < prompt.len())).collect();
    (length, vec![integers(&[1, length], &ids), integers(&[1, length], &mask)])
}

#[test]
fn encoders_are_read_once_and_decoders_speak_from_their_first_token_on() {
    for name in ["t5", "whisper"] {
        let (fixture, golden) = (Fixture::open(&folder(name)), Golden::read(name));
        let generation = fixture.model.generation().expect("it generates");
        assert_eq!(generation.stages(), [Stage::Encode, Stage::Prefill, Stage::Step]);
        let (length, inputs) = source(name, &generation, &golden.prompt);
        let capacity = generation.capacities()[0];
        let plan = Plan { capacity, source: length, ..plan(1, 3) };
        for mut session in [Session::new(&fixture), Session::on_processor(&fixture)] {
            session.run(Stage::Encode, &plan, &inputs);
            let mut got = Vec::new();
            for _ in &golden.tokens {
                let outputs = session.run(Stage::Step, &plan, &[]);
                got.extend_from_slice(&outputs[0].to_i32().expect("ids"));
            }
            assert_eq!(got, golden.tokens, "{name}, steps alone");

            // The same with the first token and some of those that follow as a prompt, in chunks that do not divide it.
            let prompt = [vec![generation.begins().expect("a first token")], golden.tokens[..4].to_vec()].concat();
            session.run(Stage::Encode, &plan, &inputs);
            let first = prefill(&mut session, &plan, &[prompt], &[0]);
            let got = greedy(&mut session, &plan, &first, golden.tokens.len() - 4);
            assert_eq!(got[0], golden.tokens[4..], "{name}, after a prompt");
        }
    }
}

#[test]
fn sources_of_a_batch_give_what_each_gives_alone() {
    let (fixture, golden) = (Fixture::open(&folder("t5")), Golden::read("t5"));
    let shorter = &golden.prompt[..9];
    let session = |batch: usize, ids: &[i32], mask: &[i32]| {
        let plan = Plan { source: 32, ..plan(batch, 1) };
        let mut session = Session::new(&fixture);
        session.run(Stage::Encode, &plan, &[integers(&[batch, 32], ids), integers(&[batch, 32], mask)]);
        let mut texts = vec![Vec::new(); batch];
        for _ in 0..8 {
            let outputs = session.run(Stage::Step, &plan, &[]);
            for (text, &id) in texts.iter_mut().zip(outputs[0].to_i32().expect("ids").iter()) {
                text.push(id);
            }
        }
        texts
    };
    let row = |prompt: &[i32]| {
        let mask: Vec<i32> = (0..32).map(|i| i32::from(i < prompt.len())).collect();
        ([prompt.to_vec(), vec![0; 32 - prompt.len()]].concat(), mask)
    };
    let ((a, a_mask), (b, b_mask)) = (row(&golden.prompt), row(shorter));
    let both = session(2, &[a.clone(), b.clone()].concat(), &[a_mask.clone(), b_mask.clone()].concat());
    assert_eq!(both, [session(1, &a, &a_mask), session(1, &b, &b_mask)].concat());
    assert_eq!(both[0], golden.tokens[..8]);
}

#[test]
fn plans_that_fit_no_model_are_refused_with_what_is_possible() {
    let fixture = Fixture::open(&folder("gpt2"));
    let generation: Generation<'_> = fixture.model.generation().expect("it generates");
    let refusal = |plan: Plan| generation.program(Stage::Step, &plan).expect_err("no such plan").to_string();
    let good = plan(1, 4);
    assert!(refusal(Plan { batch: 0, ..good }).contains("a batch of 0 texts"));
    assert!(refusal(Plan { capacity: 65, ..good }).contains("a capacity of 65 tokens, where the model has 1 to 64"));
    assert!(refusal(Plan { chunk: 65, ..good }).contains("a chunk of 65 tokens"));
    assert!(refusal(Plan { source: 3, ..good }).contains("a source of 3"));
    assert!(refusal(Plan { choice: Choice::Candidates(0), ..good }).contains("0 candidates"));
    assert!(generation.program(Stage::Encode, &good).expect_err("no encoder").to_string().contains("no encoder"));
    assert_eq!((generation.capacities(), generation.ends(), generation.begins()), (vec![64], vec![383], None));
    assert_eq!(generation.capacity_for(9), Ok(64));
    assert!(generation.capacity_for(65).is_err());
    assert!(Fixture::open(&folder("vit")).model.generation().is_none());
}

#[test]
fn every_program_of_a_plan_has_the_states_and_inputs_that_are_described() {
    for name in ["gpt2", "llama", "qwen2", "t5", "whisper"] {
        let fixture = Fixture::open(&folder(name));
        let generation = fixture.model.generation().expect("it generates");
        let source = generation.source().map_or(1, |(_, lengths)| lengths[0]);
        let capacity = generation.capacities()[0];
        for plan in [plan(1, 8), plan(2, 8)].map(|plan| Plan { source, capacity, ..plan }) {
            for &stage in generation.stages() {
                let program = generation.program(stage, &plan).expect("a program");
                let graph = program.graph();
                let slot = |id| (graph.value(id).name.clone(), graph.value(id).dtype, graph.value(id).shape.clone());
                let states: Vec<_> = graph.states().iter().map(|s| slot(s.value)).collect();
                let inputs: Vec<_> = graph.inputs().iter().map(|&id| slot(id)).collect();
                let described = |slots: Vec<tabpool_models::Slot>| {
                    slots.into_iter().map(|s| (s.name, s.dtype, s.shape)).collect::<Vec<_>>()
                };
                assert_eq!(states, described(generation.states(&plan).expect("a good plan")), "{name} {stage:?}");
                assert_eq!(
                    inputs,
                    described(generation.inputs(stage, &plan).expect("a good plan")),
                    "{name} {stage:?}"
                );
            }
        }
    }
}
