//! Reference files of `../shared/golden/hf`, which only the project's own machines have.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use owlet_runtime::{Image, Message, Part, Prompt, Role};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The folder `name` of the reference files, or `None` and a note on stderr when this checkout stands alone.
pub fn shared(name: &str) -> Option<PathBuf> {
    // They lie beside the checkout, which is this package or the folder around it.
    let checkouts = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().take(2);
    let folder =
        checkouts.map(|checkout| checkout.join("../shared/golden/hf").join(name)).find(|folder| folder.is_dir());
    if folder.is_some() {
        return folder;
    }
    // Not `eprintln`, which the test runner keeps to itself while tests pass.
    let _ = writeln!(std::io::stderr(), "skipped: ../shared/golden/hf/{name} is not here");
    None
}

/// The JSON file at `path`.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One case of a model's `golden/cases.json`, with its tensors.
pub struct Case {
    pub name: String,
    pub description: Value,
    bytes: Vec<u8>,
}

/// The cases of the model in `folder`.
pub fn cases(folder: &Path) -> Vec<Case> {
    let table = json(&folder.join("golden/cases.json"));
    let cases = table["cases"].as_array().expect("a list").iter().map(|description| {
        let text = |key: &str| description[key].as_str().expect("a string").to_owned();
        let bytes = std::fs::read(folder.join(text("file"))).expect("reads");
        Case { name: text("name"), description: description.clone(), bytes }
    });
    cases.collect()
}

impl Case {
    /// The conversation, or `None` for a case of bare text.
    pub fn prompt(&self, folder: &Path) -> Option<Prompt> {
        let images = self.description["images"].as_array().expect("a list");
        let mut images = images.iter().map(|path| {
            let path = folder.parent().expect("has a parent").join(path.as_str().expect("a path"));
            Image::open(path).expect("opens")
        });
        let messages = self.description["messages"].as_array()?;
        let messages = messages.iter().map(|message| Message {
            role: role(message["role"].as_str().expect("a role")),
            parts: parts(&message["content"], &mut images),
            calls: Vec::new(),
        });
        Some(Prompt { messages: messages.collect(), ..Prompt::default() })
    }

    pub fn text(&self) -> &str {
        self.description["text"].as_str().expect("a string")
    }

    pub fn has(&self, tensor: &str) -> bool {
        self.tensors().tensor(tensor).is_ok()
    }

    pub fn f32s(&self, tensor: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let view = tensors.tensor(tensor).expect("exists");
        assert_eq!(view.dtype(), Dtype::F32, "{tensor}");
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect()
    }

    pub fn i32s(&self, tensor: &str) -> Vec<i32> {
        let tensors = self.tensors();
        let view = tensors.tensor(tensor).expect("exists");
        assert_eq!(view.dtype(), Dtype::I32, "{tensor}");
        view.data().chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect()
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }
}

pub fn role(name: &str) -> Role {
    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
    roles.into_iter().find(|role| role.name() == name).expect("a known role")
}

/// The parts of a message whose content is a string or a list as Hugging Face writes it.
pub fn parts(content: &Value, images: &mut dyn Iterator<Item = Image>) -> Vec<Part> {
    let part = |part: &Value| match part["text"].as_str() {
        Some(text) => Part::Text(text.to_owned()),
        None => Part::Image(images.next().expect("as many as parts")),
    };
    match content.as_str() {
        Some(text) => vec![Part::Text(text.to_owned())],
        None => content.as_array().expect("a list").iter().map(part).collect(),
    }
}
