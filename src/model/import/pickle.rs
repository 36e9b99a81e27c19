//! A reader of Python's pickles that executes nothing.
//!
//! A pickle is a program for a small stack machine. This machine knows the few instructions that PyTorch's files of weights
//! are made of (protocol 2), and the few names that they call; it builds plain values out of them and refuses everything
//! else. Memory is bounded by [`VALUES_MOST`], whatever the file says.

use std::collections::BTreeMap;

/// Why a pickle was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PickleError {
    /// The bytes end inside an instruction.
    #[error("the file ends too early")]
    Truncated,
    /// Bytes that no program of this kind holds.
    #[error("byte {position}: {reason}")]
    Malformed {
        /// Where, counted from the start of the pickle.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// The pickle asks for a Python name that no file of weights needs.
    #[error(
        "the file asks for `{0}`, which a file of weights has no use for; it is not read, and nothing was executed"
    )]
    Forbidden(String),
}

/// The type of a stored number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// 32 bit real.
    F32,
    /// 64 bit real.
    F64,
    /// 16 bit real.
    F16,
    /// Whole numbers and flags: named in weight files (step counters), never needed.
    Other {
        /// Bytes each.
        size: usize,
    },
}

impl Number {
    /// Bytes of one number.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
            Self::F16 => 2,
            Self::Other { size } => size,
        }
    }
}

/// The Python names that the machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// `collections.OrderedDict`: becomes an empty [`Value::Dict`] when called.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`: becomes a [`Value::Tensor`] when called.
    RebuildTensor,
    /// `torch.FloatStorage` and its like.
    Storage(Number),
}

impl Name {
    fn find(module: &str, name: &str) -> Result<Self, PickleError> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch", "FloatStorage") => Self::Storage(Number::F32),
            ("torch", "DoubleStorage") => Self::Storage(Number::F64),
            ("torch", "HalfStorage") => Self::Storage(Number::F16),
            ("torch", "LongStorage") => Self::Storage(Number::Other { size: 8 }),
            ("torch", "IntStorage") => Self::Storage(Number::Other { size: 4 }),
            ("torch", "ShortStorage") => Self::Storage(Number::Other { size: 2 }),
            ("torch", "ByteStorage" | "CharStorage" | "BoolStorage") => Self::Storage(Number::Other { size: 1 }),
            _ => return Err(PickleError::Forbidden(format!("{module}.{name}").escape_debug().to_string())),
        })
    }
}

/// The position of a value in [`Pickle::values`].
pub(super) type Id = usize;

/// A value. Those that hold others name them by their [`Id`], so nothing nests in memory.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `None`.
    Nothing,
    /// A truth value.
    Flag(bool),
    /// A whole number of at most 64 bits.
    Integer(i64),
    /// A longer whole number: its bytes, lowest first.
    Long(Vec<u8>),
    /// A real number.
    Real(f64),
    /// Text.
    Text(String),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A dictionary, in order.
    Dict(Vec<(Id, Id)>),
    /// A known name.
    Name(Name),
    /// A stretch of numbers that stands elsewhere in the file.
    Storage {
        /// The type of the numbers.
        number: Number,
        /// By which the file finds it.
        key: String,
        /// How many numbers.
        length: usize,
    },
    /// An array: a view of a storage.
    Tensor {
        /// Its [`Value::Storage`].
        storage: Id,
        /// The first number.
        offset: usize,
        /// Size by axis.
        shape: Vec<usize>,
        /// Distance between neighbours by axis, in numbers.
        strides: Vec<usize>,
    },
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle {
    /// All values.
    pub(super) values: Vec<Value>,
    /// The one that the pickle stands for.
    pub(super) root: Id,
    /// Bytes that it took.
    pub(super) length: usize,
}

/// More values than this are refused; the paper's largest checkpoint has some ten thousand.
pub(super) const VALUES_MOST: usize = 1 << 20;

/// Longest name of a storage, in bytes; PyTorch writes numbers.
const KEY_MOST: usize = 64;

impl Pickle {
    /// Reads one pickle from the start of `bytes`; what follows its end is left alone.
    ///
    /// # Errors
    /// See [`PickleError`].
    pub(super) fn read(bytes: &[u8]) -> Result<Self, PickleError> {
        let mut machine =
            Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: BTreeMap::new() };
        let root = machine.run()?;
        Ok(Self { values: machine.values, root, length: machine.at })
    }

    /// The value of a text key in a dictionary.
    pub(super) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(entries) = &self.values[dict] else { return None };
        entries
            .iter()
            .rev()
            .find(|(name, _)| self.values[*name] == Value::Text(key.to_owned()))
            .map(|(_, value)| *value)
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn wrong(&self, reason: impl Into<String>) -> PickleError {
        PickleError::Malformed { position: self.at, reason: reason.into() }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or(PickleError::Truncated)?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u32, PickleError> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let end = self.bytes[self.at..].iter().position(|&byte| byte == b'\n').ok_or(PickleError::Truncated)?;
        let line = self.take(end)?;
        self.at += 1;
        String::from_utf8(line.to_vec()).map_err(|_| self.wrong("a name is not UTF-8"))
    }

    fn new_value(&mut self, value: Value) -> Result<Id, PickleError> {
        if self.values.len() >= VALUES_MOST {
            return Err(self.wrong(format!("more than {VALUES_MOST} values: no file of weights is like this")));
        }
        self.values.push(value);
        Ok(self.values.len() - 1)
    }

    fn push(&mut self, value: Value) -> Result<(), PickleError> {
        let id = self.new_value(value)?;
        self.stack.push(id);
        Ok(())
    }

    /// Pushes a value that is there already. Instructions that copy no value are few bytes each, so this is bounded too.
    fn push_again(&mut self, id: Id) -> Result<(), PickleError> {
        if self.stack.len() >= VALUES_MOST {
            return Err(self.wrong("the stack grows too high"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        if self.marks.last().copied().unwrap_or(0) >= self.stack.len() {
            return Err(self.wrong("an instruction takes a value that is not there"));
        }
        Ok(self.stack.pop().expect("above the mark"))
    }

    fn top(&self) -> Result<Id, PickleError> {
        if self.marks.last().copied().unwrap_or(0) >= self.stack.len() {
            return Err(self.wrong("an instruction needs a value that is not there"));
        }
        Ok(self.stack[self.stack.len() - 1])
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.wrong("there is no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, index: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), PickleError> {
        let id = *self.memo.get(&index).ok_or_else(|| self.wrong(format!("no value was put aside as {index}")))?;
        self.push_again(id)
    }

    fn add_entries(&mut self, items: &[Id]) -> Result<(), PickleError> {
        if !items.len().is_multiple_of(2) {
            return Err(self.wrong("a key without a value"));
        }
        let dict = self.top()?;
        let wrong = self.wrong("entries for something that is no dictionary");
        let Value::Dict(entries) = &mut self.values[dict] else { return Err(wrong) };
        entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn add_elements(&mut self, items: &[Id]) -> Result<(), PickleError> {
        let list = self.top()?;
        let wrong = self.wrong("elements for something that is no list");
        let Value::List(elements) = &mut self.values[list] else { return Err(wrong) };
        elements.extend_from_slice(items);
        Ok(())
    }

    fn tuple_of(&self, id: Id) -> Result<&[Id], PickleError> {
        match &self.values[id] {
            Value::Tuple(items) => Ok(items),
            other => Err(self.wrong(format!("a tuple was expected, not {}", kind(other)))),
        }
    }

    fn count(&self, id: Id) -> Result<usize, PickleError> {
        match &self.values[id] {
            Value::Integer(value) => usize::try_from(*value).map_err(|_| self.wrong(format!("{value} is no size"))),
            other => Err(self.wrong(format!("a size was expected, not {}", kind(other)))),
        }
    }

    fn counts(&self, id: Id) -> Result<Vec<usize>, PickleError> {
        self.tuple_of(id)?.iter().map(|&item| self.count(item)).collect()
    }

    /// `name(*arguments)` for the names that the machine knows.
    fn call(&self, name: Id, arguments: Id) -> Result<Value, PickleError> {
        let arguments = self.tuple_of(arguments)?;
        match &self.values[name] {
            Value::Name(Name::OrderedDict) if arguments.is_empty() => Ok(Value::Dict(Vec::new())),
            Value::Name(Name::RebuildTensor) if arguments.len() >= 4 => {
                let storage = arguments[0];
                if !matches!(self.values[storage], Value::Storage { .. }) {
                    return Err(self.wrong("a tensor without a storage"));
                }
                let (shape, strides) = (self.counts(arguments[2])?, self.counts(arguments[3])?);
                if shape.len() != strides.len() || shape.len() > 8 {
                    return Err(self.wrong("a tensor's shape and strides do not fit each other"));
                }
                Ok(Value::Tensor { storage, offset: self.count(arguments[1])?, shape, strides })
            }
            Value::Name(name) => Err(self.wrong(format!("{name:?} is called with {} arguments", arguments.len()))),
            other => Err(self.wrong(format!("{} is called", kind(other)))),
        }
    }

    /// The storage that a persistent id names: `("storage", type, key, device, length)`, a sixth element `None` in old files.
    fn storage(&self, id: Id) -> Result<Value, PickleError> {
        let parts = self.tuple_of(id)?;
        if let Some(&view) = parts.get(5)
            && self.values[view] != Value::Nothing
        {
            return Err(self.wrong("views of storages are not read"));
        }
        let value = |index: usize| parts.get(index).map(|&part: &Id| &self.values[part]);
        match (value(0), value(1), value(2)) {
            (Some(Value::Text(tag)), Some(Value::Name(Name::Storage(number))), Some(Value::Text(key)))
                if tag == "storage" && (5..=6).contains(&parts.len()) && key.len() <= KEY_MOST =>
            {
                Ok(Value::Storage { number: *number, key: key.clone(), length: self.count(parts[4])? })
            }
            _ => Err(self.wrong("a persistent id that is no storage")),
        }
    }

    fn run(&mut self) -> Result<Id, PickleError> {
        loop {
            match self.byte()? {
                0x80 => {
                    // PROTO
                    let version = self.byte()?;
                    if version > 2 {
                        return Err(self.wrong(format!("pickle protocol {version}; PyTorch writes 2")));
                    }
                }
                b'.' => return self.pop(), // STOP
                b'(' => {
                    // MARK
                    if self.marks.len() >= VALUES_MOST {
                        return Err(self.wrong("too many marks"));
                    }
                    self.marks.push(self.stack.len());
                }
                b'N' => self.push(Value::Nothing)?,
                0x88 => self.push(Value::Flag(true))?,
                0x89 => self.push(Value::Flag(false))?,
                b'K' => {
                    let value = self.byte()?;
                    self.push(Value::Integer(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.take(2)?.try_into().expect("two bytes"));
                    self.push(Value::Integer(value.into()))?;
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.take(4)?.try_into().expect("four bytes"));
                    self.push(Value::Integer(value.into()))?;
                }
                0x8a => {
                    // LONG1
                    let count = self.byte()?;
                    let bytes = self.take(count.into())?;
                    self.push(long(bytes))?;
                }
                b'G' => {
                    let value = f64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes"));
                    self.push(Value::Real(value))?;
                }
                b'X' => {
                    // BINUNICODE
                    let count = self.word()? as usize;
                    let text = std::str::from_utf8(self.take(count)?).map_err(|_| self.wrong("a text is not UTF-8"))?;
                    self.push(Value::Text(text.to_owned()))?;
                }
                b')' => self.push(Value::Tuple(Vec::new()))?,
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b']' => self.push(Value::List(Vec::new()))?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                code @ 0x85..=0x87 => {
                    // TUPLE1 to TUPLE3
                    let mut items = (0..code - 0x84).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                    items.reverse();
                    self.push(Value::Tuple(items))?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.add_entries(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.add_entries(&items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.add_elements(&[item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.add_elements(&items)?;
                }
                b'c' => {
                    // GLOBAL
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Name(Name::find(&module, &name)?))?;
                }
                b'R' => {
                    // REDUCE
                    let (arguments, name) = (self.pop()?, self.pop()?);
                    let value = self.call(name, arguments)?;
                    self.push(value)?;
                }
                b'b' => {
                    // BUILD: attributes of an object. Those of a state dict (`_metadata`) are of no use here.
                    self.pop()?;
                    if !matches!(self.values[self.top()?], Value::Dict(_)) {
                        return Err(self.wrong("attributes for something that is no dictionary"));
                    }
                }
                b'Q' => {
                    // BINPERSID
                    let id = self.pop()?;
                    let value = self.storage(id)?;
                    self.push(value)?;
                }
                b'q' => {
                    let index = self.byte()?;
                    self.remember(index.into())?;
                }
                b'r' => {
                    let index = self.word()?;
                    self.remember(index)?;
                }
                b'h' => {
                    let index = self.byte()?;
                    self.recall(index.into())?;
                }
                b'j' => {
                    let index = self.word()?;
                    self.recall(index)?;
                }
                code => {
                    self.at -= 1;
                    return Err(self.wrong(format!("instruction {code:#04x} does not occur in files of weights")));
                }
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nothing => "`None`",
        Value::Flag(_) => "a truth value",
        Value::Integer(_) | Value::Long(_) => "a whole number",
        Value::Real(_) => "a real number",
        Value::Text(_) => "a text",
        Value::Tuple(_) => "a tuple",
        Value::List(_) => "a list",
        Value::Dict(_) => "a dictionary",
        Value::Name(_) => "a name",
        Value::Storage { .. } => "a storage",
        Value::Tensor { .. } => "a tensor",
    }
}

/// A whole number from its bytes, lowest first, two's complement.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Long(bytes.to_vec());
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut all = if negative { [0xff; 8] } else { [0; 8] };
    all[..bytes.len()].copy_from_slice(bytes);
    Value::Integer(i64::from_le_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values() {
        // pickle.dumps({'a': (1, -2, 300), 'b': [None, True, 0.5]}, 2)
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01J\xfe\xff\xff\xffM,\x01\x87q\x02X\x01\x00\x00\x00bq\x03]q\x04(N\x88G?\xe0\x00\x00\x00\x00\x00\x00eu.rest";
        let pickle = Pickle::read(bytes).unwrap();
        assert_eq!(&bytes[pickle.length..], b"rest");
        let a = pickle.entry(pickle.root, "a").unwrap();
        let Value::Tuple(items) = &pickle.values[a] else { panic!("{:?}", pickle.values[a]) };
        let items: Vec<_> = items.iter().map(|&id| pickle.values[id].clone()).collect();
        assert_eq!(items, [Value::Integer(1), Value::Integer(-2), Value::Integer(300)]);
        let Value::List(items) = &pickle.values[pickle.entry(pickle.root, "b").unwrap()] else { panic!() };
        let items: Vec<_> = items.iter().map(|&id| pickle.values[id].clone()).collect();
        assert_eq!(items, [Value::Nothing, Value::Flag(true), Value::Real(0.5)]);
    }

    #[test]
    fn nothing_is_called_that_is_not_known() {
        // pickle of an object whose __reduce__ gives (os.system, ("true",))
        let error = Pickle::read(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap_err();
        assert_eq!(error, PickleError::Forbidden("posix.system".to_owned()));
        assert!(error.to_string().contains("nothing was executed"));
    }

    #[test]
    fn broken_programs_are_refused() {
        for (bytes, words) in [
            (&b""[..], "ends too early"),
            (b"\x80\x02", "ends too early"),
            (b"\x80\x05N.", "protocol 5"),
            (b"\x80\x02X\xff\xff\xff\x7fabc", "ends too early"),
            (b"\x80\x02.", "not there"),
            (b"\x80\x02(N(.", "not there"),
            (b"\x80\x02h\x05.", "put aside"),
            (b"\x80\x02Nu.", "no mark"),
            (b"\x80\x02}(Nu.", "key without"),
            (b"\x80\x02N)R.", "is called"),
            (b"\x80\x02i.", "instruction"),
        ] {
            let error = Pickle::read(bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{bytes:?}: {error}");
        }
        let many = vec![b'N'; VALUES_MOST + 1];
        assert!(Pickle::read(&many).unwrap_err().to_string().contains("more than"));
    }

    #[test]
    fn long_numbers() {
        assert_eq!(long(&[]), Value::Integer(0));
        assert_eq!(long(&[0xff]), Value::Integer(-1));
        assert_eq!(long(&[0x00, 0x01]), Value::Integer(256));
        assert!(matches!(long(&[0; 10]), Value::Long(_)));
    }
}
