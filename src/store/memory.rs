//! Memory as a backend: for tests and small tools.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Write},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    StoreError,
    backend::{Backend, Listed, Meta, Object, Put, Staged, Touched, now},
};

type Result<T> = std::result::Result<T, StoreError>;

/// Objects in memory.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, (Arc<[u8]>, Duration)>>,
}

impl Memory {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, (Arc<[u8]>, Duration)>> {
        // Every change is one step: a panic elsewhere leaves nothing half done.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct StagedBytes<'a> {
    memory: &'a Memory,
    bytes: Vec<u8>,
}

impl Write for StagedBytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Staged for StagedBytes<'_> {
    fn publish(self: Box<Self>, name: &str, put: Put) -> Result<bool> {
        let mut objects = self.memory.objects();
        if !put.replace && objects.contains_key(name) {
            return Ok(false);
        }
        objects.insert(name.to_owned(), (self.bytes.into(), now()));
        Ok(true)
    }
}

impl Backend for Memory {
    fn place(&self, name: &str) -> PathBuf {
        name.into()
    }

    fn get(&self, name: &str) -> Result<Option<Object>> {
        let found = self.objects().get(name).map(|(bytes, _)| Arc::clone(bytes));
        Ok(found.map(|bytes| Object { size: bytes.len() as u64, reader: Box::new(Cursor::new(bytes)) }))
    }

    fn head(&self, name: &str) -> Result<Option<Meta>> {
        Ok(self.objects().get(name).map(|(bytes, used)| Meta { size: bytes.len() as u64, used: *used }))
    }

    fn stage(&self) -> Result<Box<dyn Staged + '_>> {
        Ok(Box::new(StagedBytes { memory: self, bytes: Vec::new() }))
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let beneath = format!("{folder}/");
        let objects = self.objects();
        let found = objects.range(beneath.clone()..).take_while(|(name, _)| name.starts_with(&beneath));
        let listed = found.map(|(name, (bytes, used))| Listed {
            name: name.clone(),
            meta: Meta { size: bytes.len() as u64, used: *used },
        });
        Ok(listed.collect())
    }

    fn names(&self, folder: &str) -> Result<Vec<String>> {
        let listed = self.list(folder)?;
        let mut names: Vec<String> = listed
            .iter()
            .filter_map(|object| object.name[folder.len() + 1..].split('/').next().map(str::to_owned))
            .collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn touch(&self, name: &str) -> Result<Touched> {
        match self.objects().get_mut(name) {
            Some((_, used)) => {
                *used = now();
                Ok(Touched::Now)
            }
            None => Ok(Touched::Gone),
        }
    }

    fn delete(&self, name: &str) -> Result<bool> {
        Ok(self.objects().remove(name).is_some())
    }

    fn delete_unused(&self, name: &str, since: Duration) -> Result<bool> {
        let mut objects = self.objects();
        let stays = objects.get(name).is_some_and(|(_, used)| *used >= since);
        if !stays {
            objects.remove(name);
        }
        Ok(!stays)
    }
}
