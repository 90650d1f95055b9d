"""The architecture, and a fast forward pass over the Hugging Face module's own weights.

Transformers' forward is general (images of any size, packed); here all images are 128 x 128, so the
vision tower runs as one batch, the patch convolution as a matrix product, and several replies share
one image and one question. `test_recipe.py` shows that the logits are those of the Hugging Face model.

B rows, T tokens, 64 patches, 16 image tokens, 256 the hidden size of the language model.
"""

import torch
import torch.nn.functional as F
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from common import GRID, IMAGE_SIZE, PATCH_ORDER

PATCHES = GRID * GRID
IMAGE_TOKENS = PATCHES // 4


def config_for(tokenizer) -> Qwen3VLConfig:
    token = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=32,
            rms_norm_eps=1e-6,
            rope_theta=1000000,
            rope_scaling=dict(rope_type="default", mrope_interleaved=True, mrope_section=[6, 5, 5]),
            max_position_embeddings=4096,
            attention_bias=False,
            tie_word_embeddings=True,
            bos_token_id=token("<|endoftext|>"),
            eos_token_id=token("<|im_end|>"),
        ),
        vision_config=dict(
            depth=4,
            hidden_size=160,
            num_heads=5,
            intermediate_size=640,
            out_hidden_size=256,
            patch_size=16,
            temporal_patch_size=2,
            spatial_merge_size=2,
            num_position_embeddings=PATCHES,
            deepstack_visual_indexes=[1, 2],
            hidden_act="gelu_pytorch_tanh",
            in_channels=3,
        ),
    )


def new_model(tokenizer, seed: int) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config_for(tokenizer)).float()
    # The default spread of 0.02 leaves a narrow patch embedding nearly silent: use its fan-in.
    visual = model.model.visual
    torch.nn.init.normal_(visual.patch_embed.proj.weight, std=0.03)
    torch.nn.init.normal_(visual.pos_embed.weight, std=0.1)
    return model


def to_patches(pixels: torch.Tensor) -> torch.Tensor:
    """[B, 128, 128, 3] bytes -> [B, 64, 768] floats (channel, y, x), in the tower's order."""
    batch = pixels.shape[0]
    x = (pixels.float() - 127.5) / 127.5
    x = x.view(batch, GRID, 16, GRID, 16, 3).permute(0, 1, 3, 5, 2, 4).reshape(batch, PATCHES, 768)
    return x[:, torch.from_numpy(PATCH_ORDER)]


def _rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def _vision_rope(visual):
    order = torch.from_numpy(PATCH_ORDER)
    table = visual.rotary_pos_emb(GRID)
    freqs = torch.stack((order // GRID, order % GRID), -1)
    angles = table[freqs].flatten(1)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def _merge(merger, x):
    width = merger.hidden_size
    x = merger.norm(x.reshape(*x.shape[:-2], -1, width) if merger.use_postshuffle_norm else x)
    x = x.reshape(x.shape[0], -1, width)
    return merger.linear_fc2(F.gelu(merger.linear_fc1(x)))


def see(model, pixels):
    """Image tokens [B, 16, 256] and the deepstack features, one [B, 16, 256] per tapped layer."""
    visual = model.model.visual
    heads = visual.config.num_heads
    # A picture is a video of two equal frames: the convolution over time is the sum of its two taps.
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)
    x = F.linear(to_patches(pixels), kernel, visual.patch_embed.proj.bias)
    x = x + visual.pos_embed.weight[torch.from_numpy(PATCH_ORDER)]
    cos, sin = _vision_rope(visual)
    deep = []
    for index, block in enumerate(visual.blocks):
        batch, patches, width = x.shape
        qkv = block.attn.qkv(block.norm1(x)).view(batch, patches, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
        x = x + block.attn.proj(mixed.transpose(1, 2).reshape(batch, patches, width))
        hidden = F.gelu(block.mlp.linear_fc1(block.norm2(x)), approximate="tanh")
        x = x + block.mlp.linear_fc2(hidden)
        if index in visual.deepstack_visual_indexes:
            slot = visual.deepstack_visual_indexes.index(index)
            deep.append(_merge(visual.deepstack_merger_list[slot], x))
    return _merge(visual.merger, x), deep


def _norm(module, x):
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def read(model, ids, positions, mask, image=None, image_at=0, cache=None):
    """Final hidden states [B, T, 256] of the language model.

    positions [3, B, T]; mask bool [B, 1, T, T + cached], true where attention is allowed.
    `image` is what `see` returns; its 16 tokens stand at `image_at` in every row.
    `cache` is a list of (keys, values) per layer, which grows in place.
    """
    text = model.model.language_model
    x = text.embed_tokens(ids)
    if image is not None:
        tokens, deep = image
        x = torch.cat((x[:, :image_at], tokens, x[:, image_at + IMAGE_TOKENS:]), 1)
    cos, sin = text.rotary_emb(x, positions)
    cos, sin = cos[:, None], sin[:, None]
    batch, length, _ = x.shape
    for index, layer in enumerate(text.layers):
        attention = layer.self_attn
        split = lambda y: y.view(batch, length, -1, attention.head_dim)
        h = _norm(layer.input_layernorm, x)
        q = _norm(attention.q_norm, split(attention.q_proj(h))).transpose(1, 2)
        k = _norm(attention.k_norm, split(attention.k_proj(h))).transpose(1, 2)
        v = split(attention.v_proj(h)).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if cache is not None:
            if len(cache) > index:
                k = torch.cat((cache[index][0], k), 2)
                v = torch.cat((cache[index][1], v), 2)
                cache[index] = (k, v)
            else:
                cache.append((k, v))
        groups = attention.num_key_value_groups
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + attention.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        h = _norm(layer.post_attention_layernorm, x)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
        if image is not None and index < len(deep):
            x = torch.cat((
                x[:, :image_at],
                x[:, image_at:image_at + IMAGE_TOKENS] + deep[index],
                x[:, image_at + IMAGE_TOKENS:],
            ), 1)
    return _norm(text.norm, x)


def image_positions(start: int) -> torch.Tensor:
    """M-RoPE positions [3, 16] of an image whose first token is at `start`; text goes on at start + 4."""
    side = GRID // 2
    cell = torch.arange(IMAGE_TOKENS)
    return torch.stack((cell * 0, cell // side, cell % side)) + start


@torch.no_grad()
def generate(model, tokenizer, prompts, pixels, forced="", max_tokens=110, temperature=0.0, generator=None):
    """Replies to `prompts` (user texts) about `pixels`, decoded in one batch; `forced` starts each reply."""
    from layout import prefix_ids, question_ids

    prefix = prefix_ids(tokenizer)
    image_at = prefix.index(model.config.image_token_id)
    force = tokenizer.encode(forced, add_special_tokens=False) if forced else []
    rows = [prefix + question_ids(tokenizer, prompt) for prompt in prompts]
    batch, width = len(rows), max(map(len, rows))
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = torch.full((batch, width), stop)
    valid = torch.zeros(batch, width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, :len(row)] = torch.tensor(row)
        valid[i, :len(row)] = True
    positions = prompt_positions(width, image_at).expand(3, batch, width)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    mask = (causal & valid[:, None, None]) | torch.eye(width, dtype=torch.bool)
    cache = []
    hidden = read(model, ids, positions, mask, see(model, pixels), image_at, cache)
    lengths = torch.tensor([len(row) for row in rows])
    last = hidden[torch.arange(batch), lengths - 1]
    done = torch.zeros(batch, dtype=torch.bool)
    # Text positions run IMAGE_TOKENS - GRID / 2 behind the token index once the image has passed.
    shift = IMAGE_TOKENS - GRID // 2
    out = []
    for step in range(max_tokens):
        logits = model.lm_head(last)
        if step < len(force):
            token = torch.full((batch,), force[step])
        elif temperature > 0:
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            token = logits.argmax(-1)
        token = torch.where(done, stop, token)
        out.append(token)
        done |= token == stop
        if done.all():
            break
        valid = torch.cat((valid, torch.ones(batch, 1, dtype=torch.bool)), 1)
        position = (lengths - shift + step).view(1, batch, 1).expand(3, batch, 1)
        last = read(model, token[:, None], position, valid[:, None, None], cache=cache)[:, 0]
    replies = torch.stack(out, 1).tolist()
    return [tokenizer.decode([t for t in reply if t != stop]) for reply in replies]


def prompt_positions(width: int, image_at: int) -> torch.Tensor:
    """Positions [3, 1, width] of prefix, image and question."""
    text = torch.arange(width) - (IMAGE_TOKENS - GRID // 2)
    positions = text.expand(3, width).clone()
    positions[:, :image_at] = torch.arange(image_at)
    positions[:, image_at:image_at + IMAGE_TOKENS] = image_positions(image_at)
    return positions[:, None]
