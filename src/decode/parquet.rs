//! Parquet to records: a file that brings its own columns, and has its index at its end.
//!
//! Invariants: a file is read page by page, never as a whole; one that ends in the middle is
//! told from one that is damaged; a value that its column cannot hold fails the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray as _;
use arrow_array::types::ByteViewType;
use arrow_array::{ArrayRef, GenericByteViewArray, RecordBatch, RecordBatchOptions};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use serde::{Deserialize, Serialize};

use super::Unknown;
use super::blocks::Columnar;
use super::frame::{Block, Kind};
use crate::record::columns::{Columns, Type};

/// The first and last bytes of a Parquet file (Apache Parquet, "File format").
const MAGIC: &[u8] = b"PAR1";

/// The shortest file: magic, an empty index, its length, magic.
const BYTES_MIN: u64 = 12;

/// Bytes of texts in a block.
const PIECE_BYTES: usize = 1 << 20;

/// Records in a batch.
const BATCH_RECORDS: usize = 8192;

/// Bytes read at once in front of a page.
const READ_BYTES: usize = 64 * 1024;

/// `[input.format.parquet]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parquet {
    /// The columns that a file must have, by name; whatever it has, unless given.
    #[serde(skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
    /// How a column is treated that is not named here.
    pub unknown: Unknown,
}

/// The records of one file, or of several with the same columns.
pub struct Reader {
    parquet: Parquet,
    schema: Option<SchemaRef>,
    current: Option<Current>,
    waiting: VecDeque<PathBuf>,
    records: u64,
}

/// The file that is being read.
struct Current {
    batches: ParquetRecordBatchReader,
    schema: SchemaRef,
    /// The system's own error, which the library turns into a text.
    failed: Failed,
    left: u64,
    /// Records that were read and not given out yet.
    read: Option<RecordBatch>,
}

type Failed = Arc<Mutex<Option<io::Error>>>;

impl Parquet {
    /// Reads the first `size` bytes of a file.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends in the middle; the system's own errors as they are; all
    /// others say what is wrong with the file.
    pub fn open(&self, file: &File, size: u64) -> io::Result<Reader> {
        let current = if size == 0 { None } else { Some(self.begin(file, size)?) };
        let own = (!self.columns.is_empty()).then(|| self.columns.schema());
        let schema = current.as_ref().map(|current| current.schema.clone()).or(own);
        let parquet = self.clone();
        Ok(Reader { parquet, schema, current, waiting: VecDeque::new(), records: 0 })
    }

    /// Reads these files, one after the other; errors name the file. The columns must be given.
    pub fn chain(&self, paths: Vec<PathBuf>) -> Reader {
        let schema = Some(self.columns.schema());
        let parquet = self.clone();
        let waiting = paths.into();
        Reader { parquet, schema, current: None, waiting, records: 0 }
    }

    fn begin(&self, file: &File, size: u64) -> io::Result<Current> {
        check_magic(file, size)?;
        let failed = Failed::default();
        let part = Part { file: Arc::new(file.try_clone()?), size, failed: failed.clone() };
        let made = guard(&failed, || self.build(part))?;
        let (batches, schema, left) = made?;
        Ok(Current { batches, schema, failed, left, read: None })
    }

    fn build(
        &self,
        part: Part,
    ) -> Result<io::Result<(ParquetRecordBatchReader, SchemaRef, u64)>, ParquetError> {
        // The columns as Parquet says them: what a writer has added for Arrow is a hint, and nobody
        // has checked it.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let found = ArrowReaderMetadata::load(&part, options.clone())?;
        let options = options.with_schema(as_read(&found));
        let found = ArrowReaderMetadata::try_new(found.metadata().clone(), options)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(part, found);
        let (schema, roots) = match self.columns_of(builder.schema()) {
            Ok(found) => found,
            Err(reason) => return Ok(Err(damaged(reason))),
        };
        let left = match records_of(builder.metadata()) {
            Ok(records) => records,
            Err(reason) => return Ok(Err(damaged(reason))),
        };
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let builder = builder.with_projection(mask).with_batch_size(BATCH_RECORDS);
        Ok(Ok((builder.build()?, schema, left)))
    }

    /// The columns to read from a file with these, and which of its own they are.
    fn columns_of(&self, found: &Schema) -> Result<(SchemaRef, Vec<usize>), String> {
        let mut names = std::collections::HashSet::new();
        if let Some(twice) = found.fields().iter().find(|field| !names.insert(field.name())) {
            return Err(format!("has two columns `{}`", twice.name()));
        }
        if self.columns.is_empty() {
            let field = |field: &Arc<Field>| {
                let kind = match (Type::of(field.data_type()), field.data_type()) {
                    (Some(kind), _) => kind.data_type(),
                    (None, DataType::BinaryView) => DataType::Binary,
                    (None, other) => other.clone(),
                };
                Field::new(field.name(), kind, true)
            };
            let fields: Vec<_> = found.fields().iter().map(field).collect();
            let roots = (0..fields.len()).collect();
            return Ok((Arc::new(Schema::new(fields)), roots));
        }
        let mut roots = Vec::with_capacity(self.columns.0.len());
        for (name, wanted) in &self.columns.0 {
            let at = found
                .fields()
                .iter()
                .position(|field| field.name() == name)
                .ok_or_else(|| format!("has no column `{name}`"))?;
            let kind = found.field(at).data_type();
            if !widens(kind, *wanted) {
                let kind = Type::of(kind).map_or_else(|| kind.to_string(), |kind| kind.to_string());
                return Err(format!("column `{name}` is {kind}, expected {wanted}"));
            }
            roots.push(at);
        }
        let odd = found.fields().iter().enumerate().find(|(at, _)| !roots.contains(at));
        match odd.filter(|_| self.unknown == Unknown::Reject) {
            Some((_, field)) => Err(format!("has the unknown column `{}`", field.name())),
            None => Ok((self.columns.schema(), roots)),
        }
    }
}

impl Columnar for Reader {
    fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    fn is_at_end(&self) -> bool {
        let done = |current: &Current| current.left == 0 && current.read.is_none();
        self.waiting.is_empty() && self.current.as_ref().is_none_or(done)
    }

    /// A record has no line, so that its number stands for it.
    fn next_block(&mut self) -> io::Result<Option<Block>> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(records) = current.next_batch()? {
                    let lines_before = self.records;
                    self.records += records.num_rows() as u64;
                    return Ok(Some(Block {
                        kind: Kind::Records,
                        bytes: Vec::new(),
                        records: Some(records),
                        paused: false,
                        lines_before,
                    }));
                }
                self.current = None;
            }
            let Some(path) = self.waiting.pop_front() else { return Ok(None) };
            let begin = || {
                let file = File::open(&path)?;
                self.parquet.begin(&file, file.metadata()?.len())
            };
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            self.current = Some(begin().map_err(named)?);
        }
    }
}

impl Current {
    fn next_batch(&mut self) -> io::Result<Option<RecordBatch>> {
        let read = self.read.take().map_or_else(|| self.read_batch(), |read| Ok(Some(read)))?;
        let Some(read) = read else { return Ok(None) };
        let rows = piece(&read);
        if rows < read.num_rows() {
            self.read = Some(read.slice(rows, read.num_rows() - rows));
        }
        self.typed(&read.slice(0, rows)).map(Some)
    }

    fn read_batch(&mut self) -> io::Result<Option<RecordBatch>> {
        let batches = &mut self.batches;
        let batch = guard(&self.failed, || batches.next().transpose().map_err(ParquetError::from))?;
        let Some(batch) = batch else {
            let left = self.left;
            let whole = (left == 0).then_some(None);
            return whole.ok_or_else(|| damaged(format!("ends {left} records too early")));
        };
        let left = self.left.checked_sub(batch.num_rows() as u64);
        self.left = left.ok_or_else(|| damaged("has more records than its index says"))?;
        Ok(Some(batch))
    }

    /// The records in the columns that they are to have.
    fn typed(&self, batch: &RecordBatch) -> io::Result<RecordBatch> {
        let column = |field: &Arc<Field>| -> io::Result<ArrayRef> {
            let name = field.name();
            let found = batch.column_by_name(name);
            let column = found.ok_or_else(|| damaged(format!("has lost column `{name}`")))?;
            let options = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(column, field.data_type(), &options)
                .map_err(|error| damaged(format!("column `{name}`: {error}")))
        };
        let columns = self.schema.fields().iter().map(column).collect::<io::Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let records = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        records.map_err(|error| damaged(error.to_string()))
    }
}

/// True when each value of a file's column is one of the wanted type too.
fn widens(found: &DataType, wanted: Type) -> bool {
    use Type::{Bigint, Decimal, Double, Int, Real, Smallint, Varchar};
    // Older writers do not say that their texts are texts; a cast refuses what is no UTF-8.
    if matches!(found, DataType::BinaryView) && wanted == Varchar {
        return true;
    }
    let Some(found) = Type::of(found) else { return false };
    match (found, wanted) {
        (Smallint, Int | Bigint) | (Int, Bigint | Double) | (Smallint | Real, Double) => true,
        (Decimal(digits, scale), Decimal(more, wider)) => {
            scale <= wider && digits - scale <= more - wider
        }
        (found, wanted) => found == wanted,
    }
}

/// The columns as they are to be read. Texts as views: then a value of a dictionary that stands in
/// many records is in memory once. The oldest kind of timestamp in microseconds: in nanoseconds,
/// times before 1677 and after 2262 become others.
fn as_read(found: &ArrowReaderMetadata) -> SchemaRef {
    let parquet = found.parquet_schema();
    let is_int96 = |root: usize| {
        let mut leaves =
            (0..parquet.num_columns()).filter(|leaf| parquet.get_column_root_idx(*leaf) == root);
        leaves.any(|leaf| parquet.column(leaf).physical_type() == PhysicalType::INT96)
    };
    let field = |(root, field): (usize, &Arc<Field>)| {
        let data_type = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            DataType::Timestamp(TimeUnit::Nanosecond, zone) if is_int96(root) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(data_type)
    };
    let fields: Vec<_> = found.schema().fields().iter().enumerate().map(field).collect();
    Arc::new(Schema::new(fields))
}

/// The number of first records whose texts are no longer than [`PIECE_BYTES`], and one at
/// least.
fn piece(records: &RecordBatch) -> usize {
    let mut bytes = 0;
    for row in 0..records.num_rows() {
        for column in records.columns() {
            bytes += match column.data_type() {
                DataType::Utf8View => view_bytes(column.as_string_view(), row),
                DataType::BinaryView => view_bytes(column.as_binary_view(), row),
                _ => 0,
            };
        }
        if bytes > PIECE_BYTES {
            return row.max(1);
        }
    }
    records.num_rows()
}

fn view_bytes<T: ByteViewType>(column: &GenericByteViewArray<T>, row: usize) -> usize {
    let native: &[u8] = column.value(row).as_ref();
    native.len()
}

/// How many records a file has. Some writers leave the total out; the library would then read none
/// of them, and say nothing.
fn records_of(metadata: &ParquetMetaData) -> Result<u64, String> {
    let total = metadata.file_metadata().num_rows();
    let mut groups = metadata.row_groups().iter();
    let sum = groups.try_fold(0_i64, |sum, group| sum.checked_add(group.num_rows()));
    if sum != Some(total) {
        return Err(format!("has {total} records by its index, and its parts have others"));
    }
    u64::try_from(total).map_err(|_| format!("has {total} records by its index"))
}

/// Tells a file that is still arriving from one that is no Parquet file.
fn check_magic(file: &File, size: u64) -> io::Result<()> {
    let mut first = [0; 4];
    let length = usize::try_from(size).unwrap_or(4).min(4);
    let first = first.get_mut(..length).unwrap_or_default();
    file.read_exact_at(first, 0)?;
    if !MAGIC.starts_with(first) {
        return Err(damaged("is no Parquet file: it does not begin with `PAR1`"));
    }
    let mut last = [0; 4];
    if size >= BYTES_MIN {
        file.read_exact_at(&mut last, size - 4)?;
    }
    if last == MAGIC {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::UnexpectedEof, "there is no index at the end of the file"))
}

/// Runs the library, which knows neither our errors nor, on a file made to harm, its own limits.
fn guard<T>(failed: &Failed, run: impl FnOnce() -> Result<T, ParquetError>) -> io::Result<T> {
    let result = catch_unwind(AssertUnwindSafe(run));
    if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_) => Err(damaged("is damaged: the Parquet reader gave up")),
    }
}

fn damaged(reason: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason.into())
}

/// The columns of the file at `path`, which says what they are; those that no SQL type holds are left out.
pub fn columns(path: &Path) -> io::Result<Columns> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let reader = Parquet::default().open(&file, size)?;
    let schema = reader.schema.ok_or_else(|| damaged("is empty"))?;
    let column = |field: &Arc<Field>| Some((field.name().clone(), Type::of(field.data_type())?));
    Ok(Columns(schema.fields().iter().filter_map(column).collect()))
}

/// The bytes of a file up to where it ended when it was found complete.
struct Part {
    file: Arc<File>,
    size: u64,
    failed: Failed,
}

impl Part {
    fn note<T>(&self, result: io::Result<T>) -> Result<T, ParquetError> {
        result.map_err(|error| {
            let text = error.to_string();
            if error.raw_os_error().is_some() {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            ParquetError::EOF(text)
        })
    }
}

impl Length for Part {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Part {
    type T = BufReader<At>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let file = self.file.clone();
        let left = self.size.saturating_sub(start);
        let failed = self.failed.clone();
        Ok(BufReader::with_capacity(READ_BYTES, At { file, place: start, left, failed }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(ParquetError::EOF("a page lies after the end of the file".to_owned()));
        }
        let mut bytes = vec![0; length];
        self.note(self.file.read_exact_at(&mut bytes, start))?;
        Ok(bytes.into())
    }
}

/// Reads on from one place, independently of other readers of the file.
pub struct At {
    file: Arc<File>,
    place: u64,
    left: u64,
    failed: Failed,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(buffer.get_mut(..want).unwrap_or_default(), self.place);
        if let Err(error) = &got
            && let Some(code) = error.raw_os_error()
        {
            let error = io::Error::from_raw_os_error(code);
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        let got = got?;
        (self.place, self.left) = (self.place + got as u64, self.left - got as u64);
        Ok(got)
    }
}
