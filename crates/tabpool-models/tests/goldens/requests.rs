//! Requests: what is refused, with which words, and what padding and cropping do to good ones.

use tabpool_models::{Bucket, Model, RequestError};
use tabpool_tensor::{DType, Tensor};

use crate::fixture::{Fixture, folder};

fn bert() -> Model {
    Fixture::open(&folder("bert")).model
}

fn ids(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_i64(shape, values.to_vec()).expect("fits")
}

fn prepare(model: &Model, inputs: &[(&str, Tensor)]) -> Result<tabpool_models::Prepared, RequestError> {
    let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    model.prepare(&inputs, &["last_hidden_state".to_owned()])
}

fn refusal(model: &Model, inputs: &[(&str, Tensor)]) -> String {
    prepare(model, inputs).expect_err("a bad request").to_string()
}

#[test]
fn names_are_checked_against_the_signature() {
    let model = bert();
    let good = ids(&[1, 2], &[1, 2]);
    assert_eq!(
        refusal(&model, &[("ids", good.clone())]),
        r#"the model has no input "ids"; it takes input_ids, attention_mask, token_type_ids"#
    );
    assert_eq!(
        refusal(&model, &[("attention_mask", good.clone())]),
        r#"input "input_ids" is missing; the model takes input_ids, attention_mask, token_type_ids"#
    );
    assert_eq!(
        refusal(&model, &[("input_ids", good.clone()), ("input_ids", good.clone())]),
        r#"input "input_ids" is given twice"#
    );
    let outputs = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        model.prepare(&[("input_ids".to_owned(), good.clone())], &names).expect_err("no such output").to_string()
    };
    let available = "it has last_hidden_state, pooler_output, sentence_embedding";
    assert_eq!(outputs(&["logits"]), format!(r#"the model has no output "logits"; {available}"#));
    assert_eq!(outputs(&[]), format!(r#"the model has no output ""; {available}"#));
}

#[test]
fn dtypes_shapes_and_values_are_checked() {
    let model = bert();
    let floats = Tensor::from_f32([1, 2], vec![1.0, 2.0]).expect("fits");
    assert_eq!(refusal(&model, &[("input_ids", floats)]), r#"input "input_ids": f32 given, i64 or i32 wanted"#);
    assert_eq!(
        refusal(&model, &[("input_ids", ids(&[2], &[1, 2]))]),
        r#"input "input_ids": shape [2], [batch, sequence] wanted"#
    );
    assert_eq!(
        refusal(&model, &[("input_ids", ids(&[1, 2], &[1, 2])), ("token_type_ids", ids(&[2, 1], &[0, 0]))]),
        r#"input "token_type_ids": shape [2, 1], but "input_ids" has [1, 2]"#
    );
    assert_eq!(
        refusal(&model, &[("input_ids", ids(&[2, 3], &[1, 2, 3, 4, 512, 600]))]),
        r#"input "input_ids": 512 at [1, 1] is outside of 0..512"#
    );
    assert_eq!(
        refusal(&model, &[("input_ids", ids(&[1, 2], &[1, 1 << 40]))]),
        r#"input "input_ids": 1099511627776 at [0, 1] is outside of 0..512"#
    );
    assert_eq!(
        refusal(&model, &[("input_ids", ids(&[1, 2], &[1, -1]))]),
        r#"input "input_ids": -1 at [0, 1] is outside of 0..512"#
    );
    assert_eq!(
        refusal(&model, &[("input_ids", ids(&[1, 1], &[1])), ("attention_mask", ids(&[1, 1], &[2]))]),
        r#"input "attention_mask": 2 at [0, 0] is outside of 0..2"#
    );
}

#[test]
fn sizes_are_checked() {
    let model = bert();
    assert_eq!(
        refusal(&model, &[("input_ids", ids(&[1, 65], &[1; 65]))]),
        "a sequence of 65 tokens is too long: the model takes at most 64"
    );
    assert_eq!(
        refusal(&model, &[("input_ids", ids(&[33, 1], &[1; 33]))]),
        "33 sequences are too many for one run: at most 32 of 8 tokens go together"
    );
    assert_eq!(refusal(&model, &[("input_ids", ids(&[0, 4], &[]))]), "the request is empty: 0 sequences of 4 tokens");
    let err = model.program(Bucket { batch: 1, sequence: 65 }, &["last_hidden_state"]).expect_err("too long");
    assert_eq!(err.to_string(), "no program can be made for 1x65: a sequence of this model has 1 to 64 tokens");
    assert!(model.program(Bucket { batch: 0, sequence: 4 }, &["last_hidden_state"]).is_err());
    assert!(model.program(Bucket { batch: usize::MAX, sequence: 4 }, &["last_hidden_state"]).is_err());
    let err = model.program(Bucket { batch: 1, sequence: 4 }, &["logits"]).expect_err("no such output");
    assert!(err.to_string().contains(r#"no output "logits"; it has last_hidden_state"#), "{err}");
}

#[test]
fn positions_that_count_from_the_padding_id_shorten_the_longest_sequence() {
    for (family, longest) in [("bert_odd", 37), ("roberta", 64), ("mpnet", 80), ("distilbert", 64)] {
        assert_eq!(Fixture::open(&folder(family)).model.max_sequence(), longest, "{family}");
    }
}

#[test]
fn padding_fills_the_bucket_and_absent_inputs_get_their_defaults() {
    let model = Fixture::open(&folder("roberta")).model;
    let request = prepare(&model, &[("input_ids", ids(&[3, 2], &[5, 6, 7, 8, 9, 10]))]).expect("a good request");
    assert_eq!(request.bucket, Bucket { batch: 4, sequence: 8 });
    let [ids, mask] = &*request.tensors else { panic!("RoBERTa has one token type, so no input for it") };
    assert_eq!((ids.dtype(), ids.shape().dims()), (DType::I32, &[4, 8][..]));
    let (ids, mask) = (ids.to_i32().expect("integers"), mask.to_i32().expect("integers"));
    assert_eq!(ids[8..11], [7, 8, 1], "roberta's padding id is 1");
    assert_eq!(mask[8..11], [1, 1, 0]);
    assert_eq!(ids[24..], [1; 8]);
    assert_eq!(mask[24..], [0; 8]);
}

#[test]
fn cropping_keeps_the_leading_corner_and_refuses_other_shapes() {
    let model = bert();
    let inputs = [("input_ids".to_owned(), ids(&[3, 5], &[7; 15]))];
    let names = ["pooler_output".to_owned(), "last_hidden_state".to_owned()];
    let request = model.prepare(&inputs, &names).expect("a good request");
    let numbered = |dims: &[usize]| {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let values = (0..dims.iter().product()).map(|i: usize| i as f32).collect();
        Tensor::from_f32(dims, values).expect("fits")
    };
    let (pooled, hidden) = (numbered(&[4, 64]), numbered(&[4, 8, 64]));
    let got = request.crop.apply(vec![pooled.clone(), hidden.clone()]).expect("the program's shapes");
    assert_eq!(got[0].0, "pooler_output");
    assert_eq!(got[0].1.shape().dims(), [3, 64]);
    assert_eq!(got[0].1.data().as_ptr(), pooled.data().as_ptr(), "cutting rows off copies nothing");
    assert_eq!(got[1].1.shape().dims(), [3, 5, 64]);
    let values = got[1].1.to_f32().expect("floats");
    let (row, column, element) = (2, 4, 63);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let want = ((row * 8 + column) * 64 + element) as f32;
    assert_eq!(values[(row * 5 + column) * 64 + element], want);

    let err = request.crop.apply(vec![hidden.clone(), pooled]).expect_err("swapped");
    assert_eq!(err.to_string(), r#"output "pooler_output": the run gave [4, 8, 64], the program says [4, 64]"#);
    assert!(matches!(request.crop.apply(vec![hidden]), Err(RequestError::OutputCount { got: 1, want: 2 })));
}
