//! Golden bytes, round trips, and what must be refused without a panic.

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use tabpool_tensor::{DType, Precision, Tensor};

use super::{Frame, FrameError, Limits, list_states};
use crate::{
    ApiKind, Capabilities, FaultKind, HeldStates, Hello, LoadStats, Message, RunStats, StateSpec, StatesLoss,
    TunedClass, WorkerStatus,
};

fn run() -> Frame {
    Frame {
        id: 7,
        message: Message::Run { program: 300, api: ApiKind::Cpu, attempt: 2, states: Some(5) },
        tensors: vec![
            Tensor::from_i32([1, 3], vec![1, 2, 3]).expect("three"),
            Tensor::from_f32([2], vec![0.5, -1.0]).expect("two"),
        ],
    }
}

fn make() -> Frame {
    let keys = StateSpec { name: "keys.0".to_owned(), dtype: DType::F32, dims: vec![1, 4, 128, 64] };
    let length = StateSpec { name: "n".to_owned(), dtype: DType::I32, dims: vec![] };
    Message::MakeStates { states: 5, api: ApiKind::WebGpu, lease_ms: 60_000, specs: vec![keys, length] }.into()
}

fn hello() -> Frame {
    let made = HeldStates { states: 5, api: ApiKind::Cpu, bytes: Some(300) };
    let states = vec![made, HeldStates { states: 300, api: ApiKind::WebGpu, bytes: None }];
    let hello = Hello {
        oldest: 2,
        newest: 2,
        resume: Some("s".to_owned()),
        held: vec![9],
        loaded: vec![(300, ApiKind::Cpu)],
        states,
        ..Hello::default()
    };
    Message::Hello(Box::new(hello)).into()
}

fn hex(frame: &Frame) -> String {
    frame.encode().iter().map(|b| format!("{b:02x}")).collect()
}

#[track_caller]
fn round_trips(frame: &Frame) {
    assert_eq!(&Frame::decode(&frame.encode(), &Limits::default()).expect("decodes"), frame);
}

#[test]
fn the_bytes_of_version_3_stay_as_they_are() {
    let golden = |frame: Frame, want: &str| assert_eq!(hex(&frame), want.replace(char::is_whitespace, ""));
    golden(
        run(),
        "03050000 0f000000 0700000000000000
         04ac020202 0105 02 05020103 000102 00
         0100000002000000 0300000000000000
         0000003f000080bf",
    );
    golden(Message::Ping { nonce: 5 }.into(), "03070000 03000000 0000000000000000 060500 0000000000");
    golden(
        make(),
        "03 0b 0000 1a000000 0000000000000000
         13 05 00 e0d403 02 06 6b6579732e30 00 04 01 04 8001 40 01 6e 05 00 00 000000000000",
    );
    golden(Message::FreeStates { states: 300 }.into(), "03 0c 0000 04000000 0000000000000000 14 ac02 00 00000000");
    golden(
        Message::StatesMade { states: 300, api: ApiKind::Cpu, bytes: 131_072 }.into(),
        "03 49 0000 08000000 0000000000000000 15 ac02 02 808008 00",
    );
    let (states, api, reason) = (5, ApiKind::Cpu, "no".to_owned());
    golden(
        Message::StatesFailed { states, api, fault: FaultKind::Memory, reason: reason.clone() }.into(),
        "03 4a 0000 08000000 0000000000000000 16 05 02 03 02 6e6f 00",
    );
    golden(
        Message::StatesLost { states, api, cause: StatesLoss::Failed, reason: reason.clone() }.into(),
        "03 4b 0000 08000000 0000000000000000 17 05 02 01 02 6e6f 00",
    );
    golden(
        Message::Failed { attempt: 1, fault: FaultKind::States, reason }.into(),
        "03 45 0000 07000000 0000000000000000 0e 01 07 02 6e6f 00 00",
    );
    golden(
        Message::Status(WorkerStatus { states: (2, 300), paused: true, ..WorkerStatus::default() }).into(),
        "03 46 0000 0a000000 0000000000000000 0f 00 00 00 00 02 ac02 01 00 000000000000",
    );
    golden(
        hello(),
        "03 40 0000 1d000000 0000000000000000
         09 02 02 00 01 01 73 01 09 01 ac02 02 000000 00 00 00 00 00 00 00 0000 01 08 01 0a 000000
         02 05 02 01 ac02 ac02 00 00 000000000000",
    );
}

/// What version 1 sent, of which `Hello` must stay readable: a host refuses such a worker with a reason.
#[test]
fn the_hello_of_version_1_is_read() {
    let plain = Frame::from(Message::Hello(Box::new(Hello { oldest: 1, newest: 1, ..Hello::default() })));
    let text = "01400000 14000000 0000000000000000
         09 01 01 00 00 00 00 000000 00 00 00 00 00 00 00 0000 00 00000000";
    let digits = text.replace(char::is_whitespace, "");
    let bytes: Vec<u8> =
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect();
    assert_eq!(plain.encode_as(1), Bytes::from(bytes.clone()));
    assert_eq!(Frame::decode(&bytes.into(), &Limits::default()), Ok(plain));
}

#[test]
fn frames_round_trip_and_their_tensors_are_aligned_slices() {
    let bytes = run().encode();
    let frame = Frame::decode(&bytes, &Limits::default()).expect("decodes");
    assert_eq!(frame, run());
    for t in &frame.tensors {
        assert_eq!((t.data().as_ptr() as usize - bytes.as_ptr() as usize) % 8, 0);
    }
    let others = [
        Message::Hello(Box::new(Hello { capabilities: Capabilities::default(), ..Hello::default() })),
        Message::Loaded {
            program: 1,
            api: ApiKind::WebGpu,
            stats: LoadStats { precision: Precision::F16, ..LoadStats::default() },
            kept: vec!["layer.0".to_owned()],
        },
        Message::Finished { attempt: 1, stats: RunStats { precision: Precision::Int8, ..RunStats::default() } },
        Message::Bye { reason: "done".to_owned() },
        Message::Tune { api: ApiKind::WebGpu, budget_ms: 1000, at_load: true, known: vec![TunedClass::default()] },
        Message::Tuned { api: ApiKind::WebGpu, found: vec![TunedClass::default()] },
        Message::Run { program: 1, api: ApiKind::Cpu, attempt: 1, states: None },
    ];
    for message in others {
        round_trips(&message.into());
    }
}

#[test]
fn a_hello_of_a_newer_version_is_read_and_anything_else_is_not() {
    assert_eq!(Frame::decode(&hello().encode_as(9), &Limits::default()), Ok(hello()));
    let err = Frame::decode(&run().encode_as(9), &Limits::default()).expect_err("newer");
    assert_eq!(err, FrameError::Version { got: 9, want: 3 });
}

#[test]
fn a_list_of_states_that_is_none_is_refused() {
    let with = |tensor: Tensor| {
        let frame = Frame { id: 0, message: Message::Hello(Box::default()), tensors: vec![tensor] };
        Frame::decode(&frame.encode(), &Limits::default()).expect_err("refused").to_string()
    };
    let bytes = |bytes: &[u8]| Tensor::new(DType::U8, [bytes.len()], bytes.to_vec().into()).expect("bytes");
    assert_eq!(
        with(Tensor::from_i32([1], vec![1]).expect("one")),
        "tensor 0 of a frame of kind 64: a list of states is u8, not i32"
    );
    assert_eq!(with(bytes(&[1, 5, 2, 0, 0])), "tensor 0 of a frame of kind 64: 1 bytes follow the list of states");
    assert!(with(bytes(&[1, 5, 3])).starts_with("tensor 0 of a frame of kind 64: no list of states"));
    assert!(with(bytes(&[0xff, 0xff, 0x7f])).starts_with("tensor 0 of a frame of kind 64: no list of states"));
    let limits = Limits { body: 40, ..Limits::default() };
    let many = list_states(&[HeldStates { states: 1, api: ApiKind::Cpu, bytes: None }; 20]).expect("a list");
    let frame = Frame { id: 0, message: Message::Hello(Box::default()), tensors: vec![many] };
    let err = Frame::decode(&frame.encode(), &limits).expect_err("too many");
    assert_eq!(err, FrameError::TooLarge { what: "bytes of a list of states", got: 61, limit: 40 });
}

#[test]
fn limits_are_checked_before_anything_is_read() {
    let limits = Limits { frame: 40, ..Limits::default() };
    let err = Frame::decode(&run().encode(), &limits).expect_err("too long");
    assert!(matches!(err, FrameError::TooLarge { what: "bytes of a frame", limit: 40, .. }));
}

fn api() -> impl Strategy<Value = ApiKind> {
    prop_oneof![Just(ApiKind::WebGpu), Just(ApiKind::WebNn), Just(ApiKind::Cpu)]
}

fn specs() -> impl Strategy<Value = Vec<StateSpec>> {
    let dtype = prop::sample::select(&DType::ALL[..]);
    let spec = (".{0,20}", dtype, prop::collection::vec(any::<u64>(), 0..10));
    prop::collection::vec(spec.prop_map(|(name, dtype, dims)| StateSpec { name, dtype, dims }), 0..20)
}

/// A message about states.
fn of_states() -> impl Strategy<Value = Message> {
    let fault = prop_oneof![Just(FaultKind::Input), Just(FaultKind::Memory), Just(FaultKind::States)];
    let cause = prop_oneof![Just(StatesLoss::Lease), Just(StatesLoss::Failed)];
    let lists = prop::collection::vec((any::<u64>(), api(), any::<Option<u64>>()), 0..50);
    prop_oneof![
        (any::<u64>(), api(), any::<u32>(), specs()).prop_map(|(states, api, lease_ms, specs)| Message::MakeStates {
            states,
            api,
            lease_ms,
            specs
        }),
        any::<u64>().prop_map(|states| Message::FreeStates { states }),
        (any::<u64>(), api(), any::<u64>()).prop_map(|(states, api, bytes)| Message::StatesMade { states, api, bytes }),
        (any::<u64>(), api(), fault, ".{0,40}").prop_map(|(states, api, fault, reason)| Message::StatesFailed {
            states,
            api,
            fault,
            reason
        }),
        (any::<u64>(), api(), cause, ".{0,40}").prop_map(|(states, api, cause, reason)| Message::StatesLost {
            states,
            api,
            cause,
            reason
        }),
        (any::<u64>(), api(), any::<u32>(), any::<Option<u64>>())
            .prop_map(|(program, api, attempt, states)| Message::Run { program, api, attempt, states }),
        any::<((u32, u64), bool)>().prop_map(|(states, paused)| Message::Status(WorkerStatus {
            states,
            paused,
            ..WorkerStatus::default()
        })),
        lists
            .prop_map(|sets| sets.into_iter().map(|(states, api, bytes)| HeldStates { states, api, bytes }).collect())
            .prop_map(|states| Message::Hello(Box::new(Hello { states, ..Hello::default() }))),
    ]
}

proptest! {
    #[test]
    fn messages_about_states_round_trip(message in of_states()) {
        round_trips(&message.into());
    }

    #[test]
    fn junk_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Frame::decode(&Bytes::from(bytes), &Limits::default());
    }

    #[test]
    fn a_body_of_junk_is_decoded_or_refused_without_a_panic(
        kind in prop::sample::select(&super::KINDS[..]),
        mut body in prop::collection::vec(any::<u8>(), 1..200),
        index in 0u8..30,
    ) {
        body[0] = index;
        let mut bytes = vec![2, kind, 0, 0, u8::try_from(body.len()).expect("short"), 0, 0, 0];
        bytes.extend([0; 8]);
        bytes.extend(body);
        let _ = Frame::decode(&bytes.into(), &Limits::default());
    }

    #[test]
    fn damaged_frames_never_panic(
        frame in prop_oneof![Just(run()), Just(make()), Just(hello())],
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = frame.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Frame::decode(&bytes.into(), &Limits::default());
    }

    #[test]
    fn cut_frames_are_refused(frame in prop_oneof![Just(run()), Just(make()), Just(hello())], cut in 8usize..150) {
        let bytes = frame.encode();
        let cut = cut.min(bytes.len());
        assert!(Frame::decode(&bytes.slice(..bytes.len() - cut), &Limits::default()).is_err());
    }
}
