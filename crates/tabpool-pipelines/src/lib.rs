//! Text in and embeddings out: tokenizers, padding, pooling.
