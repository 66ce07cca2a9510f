//! XML as a tree. XML for libvirt is built from typed values, and XML from libvirt is searched.
//!
//! quick-xml writes and parses, so that a name, path or description from outside never becomes markup. A document
//! from libvirt is bounded in length and depth.

use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

/// The longest document that is parsed, in bytes.
const DOCUMENT_LEN_MAX: usize = 16 << 20;
/// The deepest nesting of elements.
const DEPTH_MAX: usize = 64;

/// An element with its attributes, its text and its children.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Element {
    /// The element's name, with the prefix of its name space if it has one.
    pub name: String,
    /// The attributes, in order.
    pub attributes: Vec<(String, String)>,
    /// The text. An element has text or children, not both; of libvirt's mixed content only whitespace is lost.
    pub text: String,
    /// The child elements.
    pub children: Vec<Element>,
}

impl Element {
    /// Creates an empty element.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets the text.
    #[must_use]
    pub fn holding(mut self, text: impl ToString) -> Self {
        self.text = text.to_string();
        self
    }

    /// Adds a child.
    #[must_use]
    pub fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// Adds several children.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The value of an attribute.
    #[must_use]
    pub fn get(&self, attribute: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == attribute).map(|(_, value)| value.as_str())
    }

    /// Every element that this path of names leads to from here, separated by `/`.
    #[must_use]
    pub fn all(&self, path: &str) -> Vec<&Self> {
        path.split('/').fold(vec![self], |found, name| {
            found.iter().flat_map(|e| e.children.iter().filter(|c| c.name == name)).collect()
        })
    }

    /// The first element at this path.
    #[must_use]
    pub fn first(&self, path: &str) -> Option<&Self> {
        self.all(path).first().copied()
    }

    /// The text of the first element at this path, or an empty text.
    #[must_use]
    pub fn text_of(&self, path: &str) -> &str {
        self.first(path).map_or("", |e| e.text.as_str())
    }

    /// Writes the element as a document.
    #[must_use]
    pub fn write(&self) -> String {
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        self.write_to(&mut writer).expect("a vector takes everything");
        String::from_utf8(writer.into_inner()).expect("made of strings")
    }

    fn write_to(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let mut start = BytesStart::new(self.name.as_str());
        for (name, value) in &self.attributes {
            start.push_attribute((name.as_str(), printable(value).as_str()));
        }
        if self.text.is_empty() && self.children.is_empty() {
            return writer.write_event(Event::Empty(start));
        }
        writer.write_event(Event::Start(start))?;
        if !self.text.is_empty() {
            writer.write_event(Event::Text(BytesText::new(&printable(&self.text))))?;
        }
        for child in &self.children {
            child.write_to(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name.as_str())))
    }

    /// Parses a document, and returns its root.
    ///
    /// # Errors
    /// When it is not XML, or is longer or deeper than any document from libvirt.
    pub fn read(document: &str) -> Result<Self, String> {
        if document.len() > DOCUMENT_LEN_MAX {
            return Err(format!("the document has {} bytes, more than {DOCUMENT_LEN_MAX}", document.len()));
        }
        let mut reader = Reader::from_str(document);
        let mut open: Vec<Self> = vec![Self::default()];
        loop {
            let event = reader.read_event().map_err(|e| e.to_string())?;
            let depth = open.len();
            let within = open.last_mut().expect("the document itself stays open");
            match event {
                Event::Start(start) if depth <= DEPTH_MAX => open.push(Self::of(&start)?),
                Event::Start(_) => return Err(format!("elements are nested more than {DEPTH_MAX} deep")),
                Event::Empty(start) => within.children.push(Self::of(&start)?),
                Event::Text(text) => within.text.push_str(&text.decode().map_err(|e| e.to_string())?),
                Event::CData(text) => within.text.push_str(&text.decode().map_err(|e| e.to_string())?),
                Event::GeneralRef(name) => within.text.push(character(&name)?),
                Event::End(_) => {
                    let mut done = open.pop().expect("the reader checks that ends match");
                    done.text = done.text.trim().to_owned();
                    open.last_mut().ok_or("an end without a start")?.children.push(done);
                }
                Event::Eof if depth == 1 => break,
                Event::Eof => return Err("it is truncated".to_owned()),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                Event::DocType(_) => return Err("it has a document type of its own".to_owned()),
            }
        }
        match open.remove(0).children {
            mut roots if roots.len() == 1 => Ok(roots.remove(0)),
            roots => Err(format!("it has {} roots", roots.len())),
        }
    }

    fn of(start: &BytesStart<'_>) -> Result<Self, String> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|e| e.to_string());
        let mut element = Self { name: text(start.name().as_ref())?, ..Self::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|e| e.to_string())?;
            let value = attribute.unescape_value().map_err(|e| e.to_string())?.into_owned();
            element.attributes.push((text(attribute.key.as_ref())?, value));
        }
        Ok(element)
    }
}

/// The character that `&name;` stands for.
fn character(name: &quick_xml::events::BytesRef<'_>) -> Result<char, String> {
    if let Some(c) = name.resolve_char_ref().map_err(|e| e.to_string())? {
        return Ok(c);
    }
    match name.decode().map_err(|e| e.to_string())?.as_ref() {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => Err(format!("there is no entity {other}")),
    }
}

/// The text without characters that XML 1.0 cannot contain (section 2.2).
fn printable(text: &str) -> String {
    text.chars().filter(|&c| matches!(c, '\t' | '\n' | '\r') || c >= ' ').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reading returns what was written, and no text becomes markup.
    #[test]
    fn what_is_written_is_read_again() {
        let nasty = "</name><domain a='\"&amp;]]>ü";
        let e = Element::new("domain")
            .with("type", nasty)
            .child(Element::new("name").holding(nasty))
            .child(Element::new("os").child(Element::new("boot").with("dev", "hd")));
        let read = Element::read(&e.write()).expect("our own XML");
        assert_eq!(read, e);
        assert_eq!(read.text_of("name"), nasty);
        assert_eq!(read.first("os/boot").and_then(|b| b.get("dev")), Some("hd"));
        assert!(Element::new("a").holding("x\u{0}\u{1b}y").write().contains("xy"));
    }

    #[test]
    fn what_is_no_xml_is_an_error() {
        let deep = "<a>".repeat(DEPTH_MAX + 2) + &"</a>".repeat(DEPTH_MAX + 2);
        let doctype = "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>";
        for text in ["", "<a>", "<a></b>", "a", "<a/><b/>", "<a>&nosuch;</a>", "<a b></a>", doctype, &deep] {
            assert!(Element::read(text).is_err(), "{text:.40}");
        }
    }
}
