//! The memory of one call: inputs, layer checkpoints, tapes and gradients, laid out in arenas that stay between calls.

use owlet_runtime::{
    EncodedPrompt, Error, ErrorKind, Result, Segment, TokenId,
    ggml::{Arena, Backend, Graph, RopeMode, Stored, Tensor},
    gguf::GgmlType,
};

use super::{
    GroupInput,
    attention::{Attention, BlockLeaves},
    family::Decoder,
    layout::Layout,
    tape,
};

/// Arenas that stay between calls.
#[derive(Default)]
pub(super) struct Arenas {
    pub group: Arena,
    pub adapter: Arena,
    pub head: Arena,
}

/// How much of the forward pass is kept for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing: the call only scores.
    Nothing,
    /// Keys and values of the layer at hand, for groups that begin with this prompt.
    KeysAndValues,
    /// The input of every layer; the backward pass computes the layer again.
    Inputs,
    /// The same, rounded to F16.
    RoundedInputs,
    /// Inputs, and the results of matrix products of so many layers, the last ones: they come first on the way back.
    Products(usize),
}

/// Tensors of one call.
pub(super) struct Workspace {
    token_ids: Stored,
    positions: Stored,
    negated_positions: Stored,
    blocks: Vec<BlockInputs>,
    images: Vec<ImageRows>,
    /// Inputs of the layers, and the output of the last; two that take turns where nothing is kept.
    hidden: Vec<Stored>,
    /// Inputs of the layers in F16, where `hidden` takes turns although there is a way back.
    rounded: Vec<Stored>,
    /// Gradients of hidden states; two that take turns.
    gradients: Vec<Stored>,
    /// Of the last layers.
    tapes: Vec<Vec<Stored>>,
    first_taped: usize,
    /// Keys and values of the layer at hand, `[head_dim * n_head_kv, n]`: those of the frozen tokens that are given, or
    /// those of the whole batch that are kept.
    prefix: Option<(Stored, Stored)>,
}

struct BlockInputs {
    query_rows: Stored,
    key_rows: Stored,
    mask: Stored,
    existing: Option<Stored>,
}

/// What one picture puts into the hidden states.
struct ImageRows {
    /// Place of its first token.
    start: usize,
    /// `[n_embd, n_tokens]`: the input of the first layer, and what is added to the outputs of the following ones.
    levels: Vec<Stored>,
}

/// Hands out the tensors of one allocation in the order in which they were asked for.
#[derive(Default)]
struct Request {
    tensors: Vec<(GgmlType, Vec<usize>)>,
}

impl Request {
    fn f32(&mut self, shape: &[usize]) {
        self.tensors.push((GgmlType::F32, shape.to_vec()));
    }

    fn f16(&mut self, shape: &[usize]) {
        self.tensors.push((GgmlType::F16, shape.to_vec()));
    }

    fn i32(&mut self, n: usize) {
        self.tensors.push((GgmlType::I32, vec![n]));
    }

    fn carve(&self, backend: &Backend, arena: &mut Arena) -> Result<impl FnMut() -> Stored + use<>> {
        let tensors: Vec<_> = self.tensors.iter().map(|(dtype, shape)| (*dtype, shape.as_slice())).collect();
        let mut stored = backend.carve(arena, &tensors)?.into_iter();
        Ok(move || stored.next().expect("every tensor that is taken was requested"))
    }
}

impl Workspace {
    /// Lays out memory for `group` and uploads its inputs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an empty prompt or completion or a token that the model does not have,
    /// [`ErrorKind::Mismatch`] for an image embedding of another model, [`ErrorKind::Limit`] when memory is out.
    pub(super) fn new(
        backend: &mut Backend,
        arena: &mut Arena,
        decoder: &Decoder,
        layout: &Layout,
        group: &GroupInput,
        keep: Keep,
    ) -> Result<Self> {
        let positions = positions(decoder, layout, group);
        let is_forward = matches!(keep, Keep::Nothing | Keep::KeysAndValues);
        let n_hidden = if is_forward || keep == Keep::RoundedInputs { 2 } else { decoder.n_layers + 1 };
        let n_rounded = if keep == Keep::RoundedInputs { decoder.n_layers } else { 0 };
        let n_gradients = if is_forward { 0 } else { 2 };
        let n_tapes = if let Keep::Products(n_layers) = keep { n_layers } else { 0 };
        let slots = tape::slots(decoder, layout);
        let n_prefix = if keep == Keep::KeysAndValues { layout.n_tokens } else { layout.n_frozen };

        let mut request = Request::default();
        request.i32(layout.n_tokens);
        request.i32(positions.len());
        request.i32(positions.len());
        (0..n_hidden + n_gradients).for_each(|_| request.f32(&[decoder.n_embd, layout.n_tokens]));
        (0..n_rounded).for_each(|_| request.f16(&[decoder.n_embd, layout.n_tokens]));
        (0..n_tapes).for_each(|_| slots.iter().for_each(|slot| request.f32(slot)));
        for block in &layout.blocks {
            let n = block.sequences.len();
            request.i32(block.n_queries * n);
            request.i32(block.n_keys * n);
            request.f32(&[block.n_keys, block.n_queries]);
            request.f32(&[1, block.n_queries * n]);
        }
        if n_prefix > 0 {
            (0..2).for_each(|_| request.f32(&[decoder.key_width(), n_prefix]));
        }
        let images = images(decoder, group.prompt, layout)?;
        for (_, image) in &images {
            (0..=decoder.n_deepstack).for_each(|_| request.f32(&[decoder.n_embd, image.n_tokens]));
        }

        let mut take = request.carve(backend, arena)?;
        let workspace = Self {
            token_ids: take(),
            positions: take(),
            negated_positions: take(),
            hidden: (0..n_hidden).map(|_| take()).collect(),
            gradients: (0..n_gradients).map(|_| take()).collect(),
            rounded: (0..n_rounded).map(|_| take()).collect(),
            tapes: (0..n_tapes).map(|_| slots.iter().map(|_| take()).collect()).collect(),
            first_taped: decoder.n_layers - n_tapes,
            blocks: layout
                .blocks
                .iter()
                .map(|block| {
                    let (query_rows, key_rows, mask, existing) = (take(), take(), take(), take());
                    let existing = block.existing_queries().map(|values| {
                        backend.write(&existing, &values);
                        existing
                    });
                    backend.write_i32(&query_rows, &block.query_rows());
                    backend.write_i32(&key_rows, &block.key_rows());
                    backend.write(&mask, &block.mask());
                    BlockInputs { query_rows, key_rows, mask, existing }
                })
                .collect(),
            prefix: (n_prefix > 0).then(|| (take(), take())),
            images: images
                .iter()
                .map(|&(start, image)| {
                    let level = |level: usize| {
                        let stored = take();
                        let rows = image.data.chunks(image.width_embd);
                        let part = level * decoder.n_embd..(level + 1) * decoder.n_embd;
                        let values: Vec<f32> = rows.flat_map(|row| &row[part.clone()]).copied().collect();
                        backend.write(&stored, &values);
                        stored
                    };
                    ImageRows { start, levels: (0..=decoder.n_deepstack).map(level).collect() }
                })
                .collect(),
        };
        backend.write_i32(&workspace.token_ids, &token_ids(decoder, layout, group)?);
        backend.write_i32(&workspace.positions, &positions);
        let negated: Vec<i32> = positions.iter().map(|position| -position).collect();
        backend.write_i32(&workspace.negated_positions, &negated);
        Ok(workspace)
    }

    /// Bytes that [`Keep::Products`] takes for each layer.
    pub(super) fn product_bytes(decoder: &Decoder, layout: &Layout) -> usize {
        let n_elements: usize = tape::slots(decoder, layout).iter().map(|slot| slot.iter().product::<usize>()).sum();
        n_elements * size_of::<f32>()
    }

    /// The hidden states that enter layer `layer`; those that leave the last one for `layer == n_layers`.
    pub(super) fn hidden(&self, layer: usize) -> &Stored {
        &self.hidden[layer % self.hidden.len()]
    }

    /// Keeps the input `x` of layer `layer` where it would be overwritten before the way back.
    pub(super) fn keep_input(&self, layer: usize, graph: &mut Graph, x: Tensor) {
        if let Some(rounded) = self.rounded.get(layer) {
            let rounded = graph.leaf(rounded);
            graph.copy(x, rounded);
        }
    }

    /// The input of layer `layer` on the way back, as far as it was rounded.
    pub(super) fn kept_input(&self, layer: usize, graph: &mut Graph) -> Option<Tensor> {
        let rounded = graph.leaf(self.rounded.get(layer)?);
        Some(graph.dequantize(rounded))
    }

    /// The gradient of the hidden states that enter layer `layer`.
    pub(super) fn gradient(&self, layer: usize) -> &Stored {
        &self.gradients[layer % self.gradients.len()]
    }

    /// The slots of layer `layer`, where products are kept.
    pub(super) fn tape(&self, layer: usize) -> Option<std::slice::Iter<'_, Stored>> {
        self.tapes.get(layer.checked_sub(self.first_taped)?).map(|slots| slots.iter())
    }

    /// Positions and negated positions.
    pub(super) fn positions(&self, graph: &mut Graph) -> (Tensor, Tensor) {
        (graph.leaf(&self.positions), graph.leaf(&self.negated_positions))
    }

    /// Keys and values of the layer at hand.
    pub(super) fn prefix(&self) -> Option<&(Stored, Stored)> {
        self.prefix.as_ref()
    }

    /// The attention of the group.
    pub(super) fn attention<'a>(&self, graph: &mut Graph, decoder: &'a Decoder, layout: &'a Layout) -> Attention<'a> {
        let mut leaves = |block: &BlockInputs| BlockLeaves {
            query_rows: graph.leaf(&block.query_rows),
            key_rows: graph.leaf(&block.key_rows),
            mask: graph.leaf(&block.mask),
            existing: block.existing.as_ref().map(|existing| graph.leaf(existing)),
        };
        let blocks = self.blocks.iter().map(&mut leaves).collect();
        let given = self.prefix.as_ref().filter(|_| layout.n_frozen > 0);
        let frozen = given.map(|(keys, values)| (graph.leaf(keys), graph.leaf(values)));
        Attention { decoder, layout, blocks, frozen }
    }

    /// Embeddings of all tokens, with the pictures in their places, computed into the input of the first layer.
    pub(super) fn embed(&self, graph: &mut Graph, embedding: &Stored) {
        let (embedding, ids) = (graph.leaf(embedding), graph.leaf(&self.token_ids));
        let rows = graph.get_rows(embedding, ids);
        graph.place(rows, self.hidden(0));
        self.at_images(0, graph, rows, Graph::copy);
    }

    /// Adds the features of the pictures that follow layer `layer` to its output.
    pub(super) fn add_image_features(&self, layer: usize, graph: &mut Graph, output: Tensor) {
        self.at_images(layer + 1, graph, output, |graph, features, rows| graph.add_into(rows, features));
    }

    fn at_images(&self, level: usize, graph: &mut Graph, x: Tensor, act: impl Fn(&mut Graph, Tensor, Tensor)) {
        for image in &self.images {
            let Some(stored) = image.levels.get(level) else { continue };
            let features = graph.leaf(stored);
            let rows = graph.slice(x, 1, image.start, stored.shape()[1]);
            act(graph, features, rows);
        }
    }
}

/// Ids of the tokens of the batch; pictures have 0, which is overwritten.
fn token_ids(decoder: &Decoder, layout: &Layout, group: &GroupInput) -> Result<Vec<i32>> {
    let mut ids: Vec<TokenId> = Vec::new();
    for segment in &group.prompt.segments {
        match segment {
            Segment::Tokens(tokens) => ids.extend(tokens),
            Segment::Image(image) => ids.extend(std::iter::repeat_n(0, image.n_tokens)),
        }
    }
    ids.extend(group.completions.iter().flat_map(|tokens| &tokens[..tokens.len() - 1]));
    let last = group.completions.iter().filter_map(|tokens| tokens.last());
    match ids.iter().chain(last).find(|&&id| usize::try_from(id).map_or(true, |id| id >= decoder.n_vocab)) {
        None => Ok(ids.split_off(layout.n_frozen)),
        Some(id) => Err(Error::new(ErrorKind::InvalidInput, "token outside the vocabulary")
            .got(id)
            .needed(format!("0..{}", decoder.n_vocab))),
    }
}

/// Positions of the tokens of the batch, axis by axis where the rope mode has several.
fn positions(decoder: &Decoder, layout: &Layout, group: &GroupInput) -> Vec<i32> {
    let mut positions = group.prompt.positions().split_off(layout.n_frozen);
    for tokens in group.completions {
        positions.extend((group.prompt.next_position()..).take(tokens.len() - 1).map(|p| [p, p, p, 0]));
    }
    debug_assert_eq!(positions.len(), layout.n_tokens);
    match decoder.rope.mode {
        RopeMode::Normal | RopeMode::Neox => positions.iter().map(|position| position[0]).collect(),
        RopeMode::Multi | RopeMode::Interleaved => {
            (0..4).flat_map(|axis| positions.iter().map(move |position| position[axis])).collect()
        }
    }
}

/// The pictures in the batch, with the places of their first tokens.
fn images<'a>(
    decoder: &Decoder,
    prompt: &'a EncodedPrompt,
    layout: &Layout,
) -> Result<Vec<(usize, &'a owlet_runtime::ImageEmbedding)>> {
    let width = decoder.n_embd * (1 + decoder.n_deepstack);
    let mut start = 0;
    let mut images = Vec::new();
    for segment in &prompt.segments {
        if let Segment::Image(image) = segment {
            if image.width_embd != width || image.data.len() != width * image.n_tokens || image.n_tokens == 0 {
                return Err(Error::new(ErrorKind::Mismatch, "image embedding of another model")
                    .got(format!("{} numbers, {} per token", image.data.len(), image.width_embd))
                    .needed(format!("{width} for each of {} tokens", image.n_tokens)));
            }
            // A cut never goes through a picture.
            if start >= layout.n_frozen {
                images.push((start - layout.n_frozen, image.as_ref()));
            }
        }
        start += segment.n_tokens();
    }
    Ok(images)
}
