//! Tables as people's programs leave them: commas, semicolons or tabs, with or without a byte order mark, in UTF-8, UTF-16 or Latin-1.

/// A table of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sheet {
    pub(super) headers: Vec<String>,
    pub(super) rows: Vec<SheetRow>,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SheetRow {
    /// The line of the file, from 1, that it begins in.
    pub(super) line: usize,
    /// As many as there are headers; empty where there is nothing.
    pub(super) values: Vec<String>,
}

/// What pandas, R and databases write for nothing.
const NOTHING: [&str; 9] = ["nan", "na", "n/a", "#n/a", "null", "none", "<na>", "-nan", "nat"];

/// The text of a file.
fn decode(bytes: &[u8]) -> String {
    let wide = |bytes: &[u8], big: bool| {
        let pairs = bytes.chunks_exact(2);
        let units = pairs.map(|pair| {
            if big { u16::from_be_bytes([pair[0], pair[1]]) } else { u16::from_le_bytes([pair[0], pair[1]]) }
        });
        char::decode_utf16(units).map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => decode(rest),
        [0xff, 0xfe, rest @ ..] => wide(rest, false),
        [0xfe, 0xff, rest @ ..] => wide(rest, true),
        // Without a mark: every other byte of a header in Latin letters is 0.
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => wide(bytes, false),
        [0, first, 0, second, ..] if *first != 0 && *second != 0 => wide(bytes, true),
        _ => String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| bytes.iter().map(|&byte| char::from(byte)).collect()),
    }
}

/// How often a byte stands in a line outside of quotes.
fn count(line: &str, wanted: u8) -> usize {
    let mut quoted = false;
    let mut found = 0;
    for byte in line.bytes() {
        match byte {
            b'"' => quoted = !quoted,
            byte if byte == wanted && !quoted => found += 1,
            _ => {}
        }
    }
    found
}

impl Sheet {
    /// Reads a table.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = decode(bytes);
        let mut rest = text.as_str();
        let mut skipped = 0;
        let mut told = None;
        // Excel's own line before the header: `sep=;`.
        let head = rest.trim_start_matches(['\r', '\n']);
        let first = head.lines().next().unwrap_or_default();
        let lower = first.trim().trim_matches('"').to_lowercase();
        if let Some(separator) = lower.strip_prefix("sep=") {
            told = separator.bytes().next().or(Some(b'\t'));
            skipped = rest[..rest.len() - head.len()].matches('\n').count() + 1;
            rest = head[first.len()..].trim_start_matches('\r');
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
        let header = rest.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let separator = told.unwrap_or_else(|| {
            // The first of those that stand in the header most often.
            let most = [b',', b';', b'\t', b'|'].map(|separator| (count(header, separator), separator));
            let highest = most.iter().map(|(count, _)| *count).max().unwrap_or(0);
            most.iter().find(|(count, _)| *count == highest).map_or(b',', |(_, separator)| *separator)
        });
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(separator)
            .has_headers(false)
            .flexible(true)
            .from_reader(rest.as_bytes());
        let mut sheet = Self::default();
        for record in reader.records() {
            let record = record.map_err(|error| error.to_string())?;
            // Blank lines before a record count as its own for the reader.
            let (from, line) = record.position().map_or((0, 0), |position| (position.byte(), position.line()));
            let blank = rest[from as usize..].chars().take_while(|c| matches!(c, '\r' | '\n')).filter(|c| *c == '\n');
            let line = line as usize + blank.count() + skipped;
            let values: Vec<String> = record.iter().map(|value| value.trim().to_owned()).collect();
            if values.iter().all(String::is_empty) {
                continue;
            }
            if sheet.headers.is_empty() {
                sheet.headers = values;
                continue;
            }
            if let Some(extra) = values.iter().skip(sheet.headers.len()).find(|value| !value.is_empty()) {
                let (own, all) = (values.len(), sheet.headers.len());
                return Err(format!("line {line} has {own} values, the header {all} (`{extra}` is one too many)"));
            }
            let nothing = |value: &String| NOTHING.contains(&value.to_lowercase().as_str());
            let mut values: Vec<String> =
                values.into_iter().map(|value| if nothing(&value) { String::new() } else { value }).collect();
            values.resize(sheet.headers.len(), String::new());
            sheet.rows.push(SheetRow { line, values });
        }
        Ok(sheet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Sheet {
        Sheet::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn tables_of_excel_and_pandas() {
        let plain = read("a,b c\n1,2\n3,4\n");
        assert_eq!(plain.headers, ["a", "b c"]);
        assert_eq!(plain.rows[1], SheetRow { line: 3, values: vec!["3".into(), "4".into()] });
        for text in [
            "a;b c\n1;2\n3;4\n",
            "a\tb c\n1\t2\n3\t4\n",
            "a|b c\n1|2\n3|4\n",
            "\u{feff}a,b c\r\n1,2\r\n3,4\r\n",
            "a,b c\r1,2\r3,4\r",
        ] {
            let sheet = read(text);
            assert_eq!(sheet.headers, plain.headers, "{text:?}");
            assert_eq!(
                sheet.rows.iter().map(|row| &row.values).collect::<Vec<_>>(),
                [&plain.rows[0].values, &plain.rows[1].values]
            );
        }
        let sep = read("sep=;\na;b c\n1;2\n3;4\n");
        assert_eq!((sep.headers.clone(), sep.rows[1].line), (plain.headers.clone(), 4));
        for (big, mark) in [(false, true), (true, true), (false, false), (true, false)] {
            let units = "a\tb c\n1\t2\n3\t4\n".encode_utf16();
            let units = mark.then_some(0xfeff).into_iter().chain(units);
            let bytes: Vec<u8> =
                units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect();
            assert_eq!(Sheet::read(&bytes).unwrap(), plain, "{big} {mark}");
        }
        assert_eq!(Sheet::read(b"a,b\n\xb5,1\n").unwrap().rows[0].values[0], "µ");
    }

    #[test]
    fn blank_rows_and_nothings() {
        let sheet = read("a,b\n\n1,nan\n,\n \nNA,\"x\ny\"\n2\n");
        let rows: Vec<(usize, &[String])> = sheet.rows.iter().map(|row| (row.line, row.values.as_slice())).collect();
        let text = |values: [&str; 2]| values.map(str::to_owned);
        assert_eq!(rows, [(3, &text(["1", ""])[..]), (6, &text(["", "x\ny"])), (8, &text(["2", ""]))]);
        assert_eq!(read("\"a;b\",c\n1,2\n").headers, ["a;b", "c"]);
        assert!(Sheet::read(b"a,b\n1,2,3\n").unwrap_err().contains("line 2 has 3 values"));
        assert_eq!(Sheet::read(b"").unwrap(), Sheet::default());
        assert_eq!(read("a,b\n1,2,,\n").rows[0].values, text(["1", "2"]));
    }
}
