//! One section of the TOML tree: reports keys that are unknown or missing, and gives the others by type.

use super::report::Report;
use super::schema::Schema;
use std::ops::{Deref, RangeInclusive};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// A value and where it stands: the byte offset of its text.
#[derive(Clone, Copy, Debug)]
pub struct At<T> {
    pub at: usize,
    pub value: T,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

pub struct Section<'t> {
    /// Where the section begins.
    pub at: usize,
    table: &'t DeTable<'t>,
    pub schema: &'static Schema,
}

impl<'t> Section<'t> {
    /// Opens the section that begins at `at`, and reports its unknown and missing keys.
    pub fn open(table: &'t DeTable<'t>, at: usize, schema: &'static Schema, report: &mut Report) -> Section<'t> {
        for key in table.keys().filter(|key| !schema.knows(key.get_ref())) {
            report.error(key.span().start, schema.unknown(key.get_ref()));
        }
        for key in schema.keys.iter().filter(|key| key.required && !table.contains_key(key.name)) {
            report.missing(at, format!("{} lacks `{}`; write {}", schema.title, key.name, key.form));
        }
        Section { at, table, schema }
    }

    /// As `open`, of which only single keys are wanted: reports nothing.
    pub fn part(table: &'t DeTable<'t>, at: usize, schema: &'static Schema) -> Section<'t> {
        Section { at, table, schema }
    }

    /// Where a key stands, if it is there.
    pub fn key_at(&self, name: &str) -> Option<usize> {
        self.table.get_key_value(name).map(|(key, _)| key.span().start)
    }

    /// A string, and what `parse` makes of it.
    pub fn text<T>(
        &self,
        name: &str,
        report: &mut Report,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let value = self.table.get(name)?;
        match value.get_ref().as_str() {
            Some(text) => parsed(value, text, report, parse),
            None => self.wrong_type(name, value, "a string", report),
        }
    }

    pub fn integer(&self, name: &str, range: RangeInclusive<u32>, report: &mut Report) -> Option<At<u32>> {
        let (least, most) = range.into_inner();
        let At { at, value } = self.long(name, least.into()..=most.into(), report)?;
        Some(At { at, value: u32::try_from(value).expect("within the range") })
    }

    /// As `integer`, of 64 bits.
    pub fn long(&self, name: &str, range: RangeInclusive<u64>, report: &mut Report) -> Option<At<u64>> {
        let value = self.table.get(name)?;
        let Some(integer) = value.get_ref().as_integer() else {
            return self.wrong_type(name, value, "an integer", report);
        };
        let found = number(integer).and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        if found.is_none() {
            let (least, most) = (range.start(), range.end());
            report
                .error(value.span().start, format!("`{name}` is out of range; write a number from {least} to {most}"));
        }
        found.map(|n| At { at: value.span().start, value: n })
    }

    pub fn boolean(&self, name: &str, report: &mut Report) -> Option<At<bool>> {
        let value = self.table.get(name)?;
        match value.get_ref().as_bool() {
            Some(is_so) => Some(At { at: value.span().start, value: is_so }),
            None => self.wrong_type(name, value, "true or false", report),
        }
    }

    pub fn is_list(&self, name: &str) -> bool {
        self.table.get(name).is_some_and(|value| value.get_ref().is_array())
    }

    /// An array, each element read by `read`, which reports those that it cannot use. `empty` is what to say of an empty one.
    /// `None` only where the key is absent.
    pub fn list<T>(
        &self,
        name: &str,
        report: &mut Report,
        empty: &str,
        read: impl Fn(&Spanned<DeValue>, &mut Report) -> Option<At<T>>,
    ) -> Option<Vec<At<T>>> {
        let value = self.table.get(name)?;
        let Some(array) = value.get_ref().as_array() else {
            return self.wrong_type(name, value, "an array", report).or(Some(Vec::new()));
        };
        if array.is_empty() {
            report.error(value.span().start, empty);
        }
        Some(array.iter().filter_map(|element| read(element, report)).collect())
    }

    /// As `list`; a value alone is read as an array of one.
    pub fn one_or_list<T>(
        &self,
        name: &str,
        report: &mut Report,
        empty: &str,
        read: impl Fn(&Spanned<DeValue>, &mut Report) -> Option<At<T>>,
    ) -> Option<Vec<At<T>>> {
        let value = self.table.get(name)?;
        match value.get_ref().as_array() {
            Some(_) => self.list(name, report, empty, read),
            None => Some(read(value, report).into_iter().collect()),
        }
    }

    /// A section within this one.
    pub fn table(&self, name: &str, schema: &'static Schema, report: &mut Report) -> Option<Section<'t>> {
        let value = self.table.get(name)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section::open(table, value.span().start, schema, report)),
            None => self.wrong_type(name, value, "one section", report),
        }
    }

    /// The sections of an array of them; at most `limit`.
    pub fn tables(&self, name: &str, limit: usize, schema: &'static Schema, report: &mut Report) -> Vec<Section<'t>> {
        let Some(value) = self.table.get(name) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            return self.wrong_type(name, value, "an array of sections", report).unwrap_or_default();
        };
        if array.is_empty() {
            report.error(value.span().start, format!("`{name}` is empty; write {}", self.schema.key(name).form));
        }
        if let Some(first_beyond) = array.get(limit) {
            let count = array.len();
            report
                .error(first_beyond.span().start, format!("{count} of {}; at most {limit} are possible", schema.title));
        }
        let open = |element: &'t Spanned<DeValue<'t>>, report: &mut Report| match element.get_ref().as_table() {
            Some(table) => Some(Section::open(table, element.span().start, schema, report)),
            None => self.wrong_type(name, element, "an array of sections", report),
        };
        array.iter().take(limit).filter_map(|element| open(element, report)).collect()
    }

    /// As `tables`; a section alone is read as an array of one.
    pub fn one_or_tables(
        &self,
        name: &str,
        limit: usize,
        schema: &'static Schema,
        report: &mut Report,
    ) -> Vec<Section<'t>> {
        match self.table.get(name).filter(|value| value.get_ref().is_table()) {
            Some(_) => self.table(name, schema, report).into_iter().collect(),
            None => self.tables(name, limit, schema, report),
        }
    }

    fn wrong_type<T>(&self, name: &str, value: &Spanned<DeValue>, wanted: &str, report: &mut Report) -> Option<T> {
        let found = with_article(value.get_ref());
        let form = self.schema.key(name).form;
        report.error(value.span().start, format!("`{name}` must be {wanted}, not {found}; write {form}"));
        None
    }
}

/// An element of an array that must be a string, and what `parse` makes of it.
pub fn text_element<T>(
    element: &Spanned<DeValue>,
    report: &mut Report,
    wanted: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<At<T>> {
    match element.get_ref().as_str() {
        Some(text) => parsed(element, text, report, parse),
        None => {
            report.error(element.span().start, format!("this is {}; write {wanted}", with_article(element.get_ref())));
            None
        }
    }
}

/// An element of an array that must be a non-negative integer.
pub fn integer_element(element: &Spanned<DeValue>, report: &mut Report, wanted: &str) -> Option<At<usize>> {
    let found = element.get_ref().as_integer().and_then(number).and_then(|n| usize::try_from(n).ok());
    if found.is_none() {
        report.error(element.span().start, format!("this is not {wanted}"));
    }
    found.map(|value| At { at: element.span().start, value })
}

fn parsed<T>(
    value: &Spanned<DeValue>,
    text: &str,
    report: &mut Report,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<At<T>> {
    let at = value.span().start;
    parse(text).map_err(|message| report.error(at, message)).ok().map(|value| At { at, value })
}

/// `None` beyond 64 bits.
fn number(integer: &DeInteger) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn with_article(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a section",
    }
}
