//! What is asked: messages of text and pictures.

use std::ffi::c_char;

use owlet_runtime::{IMAGE_MARK, Image, Message, Part, Prompt, Result, Role, Tools};

use crate::{
    handle,
    image::owlet_image,
    input::{self, versioned},
};

/// Who speaks.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_role {
    /// The person.
    User = 0,
    /// The model.
    Assistant = 1,
    /// A tool that the model called.
    Tool = 2,
    /// Instructions that hold for the whole conversation.
    System = 3,
}

/// What one side said. All of it is read, and pictures are shared, during the call only.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_message {
    /// sizeof(owlet_message), set by the caller.
    pub struct_size: usize,
    /// The text, UTF-8. Every "<image>" in the text of a user is replaced by the next picture; without any, the pictures
    /// come first. Control tokens in it are only text.
    pub text: *const c_char,
    /// The pictures, in order. NULL where there are none.
    pub images: *const *const owlet_image,
    /// Number of pictures.
    pub n_images: usize,
    /// An owlet_role.
    pub role: u32,
}

versioned!(owlet_message);

/// The caller's message.
///
/// # Safety
/// `message` is as the header says.
pub(crate) unsafe fn read(message: *const owlet_message) -> Result<Message> {
    // SAFETY: by the contract above.
    unsafe { convert(&input::required(message)?) }
}

/// Whether the model thinks before it answers, where its chat template knows a switch.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_thinking {
    /// As the template has it.
    Default = 0,
    /// It thinks; OWLET_STATUS_UNSUPPORTED where the template knows no switch.
    On = 1,
    /// It does not; likewise.
    Off = 2,
}

/// The switch that stands for `number`.
pub(crate) fn thinking(number: u32) -> Result<Option<bool>> {
    let values = [
        (owlet_thinking::Default as u32, None),
        (owlet_thinking::On as u32, Some(true)),
        (owlet_thinking::Off as u32, Some(false)),
    ];
    input::pick("thinking", number, &values)
}

/// The caller's messages as a prompt with tools.
///
/// # Safety
/// `messages` are as the header says, as is `tools`.
pub(crate) unsafe fn prompt(messages: *const owlet_message, n_messages: usize, tools: *const c_char) -> Result<Prompt> {
    // SAFETY: by the contract above.
    let messages = unsafe { input::structs(messages, n_messages, "messages") }?;
    // SAFETY: as above.
    let messages = messages.iter().map(|message| unsafe { convert(message) }).collect::<Result<_>>()?;
    // SAFETY: as above.
    let tools = unsafe { input::optional_text(tools, "tools") }?.map_or(Ok(Tools::default()), Tools::from_json)?;
    Ok(Prompt { messages, tools, thinking: None })
}

/// The pictures of an array of handles.
///
/// # Safety
/// `images` is NULL or points to `n` pointers.
pub(crate) unsafe fn pictures(images: *const *const owlet_image, n: usize) -> Result<Vec<Image>> {
    // SAFETY: by the contract above.
    let images = unsafe { input::array(images, n, "images") }?;
    images.iter().map(|&image| Ok((*handle::borrow(image)?).clone())).collect()
}

unsafe fn convert(message: &owlet_message) -> Result<Message> {
    let roles = [
        (owlet_role::User as u32, Role::User),
        (owlet_role::Assistant as u32, Role::Assistant),
        (owlet_role::Tool as u32, Role::Tool),
        (owlet_role::System as u32, Role::System),
    ];
    let role = input::pick("role", message.role, &roles)?;
    // SAFETY: the caller's contract.
    let text = unsafe { input::text(message.text, "text") }?;
    // SAFETY: the caller's contract.
    let images = unsafe { pictures(message.images, message.n_images) }?;
    if role == Role::User {
        return Message::user(text, images);
    }
    let parts = images.into_iter().map(Part::Image).chain([Part::Text(text.to_owned())]).collect();
    Ok(Message { role, parts, calls: Vec::new() })
}

/// The number of a role.
pub(crate) fn role_number(role: Role) -> u32 {
    let role = match role {
        Role::User => owlet_role::User,
        Role::Assistant => owlet_role::Assistant,
        Role::Tool => owlet_role::Tool,
        Role::System => owlet_role::System,
    };
    role as u32
}

/// What stands for a picture in texts, so that the header's documentation cannot differ.
const _: () = assert!(matches!(IMAGE_MARK.as_bytes(), b"<image>"));
