//! The class of arithmetic: where numbers are computed, how precise they are, and what is promised of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where arithmetic is done. Which of several devices of a class it is does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Device {
    /// On the processor.
    Cpu,
    /// On an NVIDIA GPU.
    Cuda,
}

/// In what numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Precision {
    /// 32 bits: 24 of them significant.
    F32,
    /// Products of 11 significant bits, sums of 24: what tensor cores make of 32-bit numbers.
    Tf32,
    /// 16 bits: 8 of them significant, the range of 32 bits. Weights and sums are kept in 32.
    Bf16,
}

/// The class of arithmetic: within one class, results are comparable in the way that `deterministic` says.
///
/// It is part of every key, travels from the command line through the plan to [`Context`](super::Context), and says nothing of the
/// number of threads or which of several GPUs: those change no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Numerics {
    /// Where.
    pub device: Device,
    /// In what numbers.
    pub precision: Precision,
    /// Whether results are the same to the bit every time; else within a tolerance.
    pub deterministic: bool,
}

impl Numerics {
    /// On the processor, in 32 bits, the same to the bit every time.
    pub const CPU: Self = Self { device: Device::Cpu, precision: Precision::F32, deterministic: true };

    /// The class that is meant by what the user asked for on this machine.
    ///
    /// # Errors
    /// [`NumericsError`] when this program or this machine cannot compute that way; it says what is missing.
    pub fn resolve(device: DeviceChoice, precision: Option<Precision>) -> Result<Self, NumericsError> {
        match device {
            DeviceChoice::Cuda(number) => Err(NumericsError::NoCuda(number)),
            DeviceChoice::Auto | DeviceChoice::Cpu => match precision {
                None | Some(Precision::F32) => Ok(Self::CPU),
                Some(precision) => Err(NumericsError::NotOnCpu(precision)),
            },
        }
    }
}

/// The device that the user asks for: `auto`, `cpu`, `cuda:0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest that works.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "a device is `auto`, `cpu`, or `cuda:0` for the first GPU".to_owned()),
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            _ => Err("a precision is `f32`, `tf32` or `bf16`".to_owned()),
        }
    }
}

/// What the user asked for cannot be computed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumericsError {
    /// There is no code for GPUs in this program.
    #[error("`cuda:{0}` cannot be used: this statcell was built without support for CUDA")]
    NoCuda(usize),
    /// The processor computes in 32 bits only.
    #[error("the processor computes in f32; {0} needs a GPU")]
    NotOnCpu(Precision),
}

impl NumericsError {
    /// What to do.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::NoCuda(_) => "use `--device cpu`, or leave `--device` out",
            Self::NotOnCpu(_) => "use `--precision f32`, or leave `--precision` out",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let promise = if self.deterministic { "deterministic" } else { "within a tolerance" };
        write!(f, "{} {} {promise}", self.device, self.precision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_works_is_accepted() {
        let resolve = |device: &str, precision: Option<&str>| {
            Numerics::resolve(device.parse().unwrap(), precision.map(|text| text.parse().unwrap()))
        };
        for (device, precision) in [("auto", None), ("cpu", None), ("cpu", Some("f32")), ("auto", Some("f32"))] {
            assert_eq!(resolve(device, precision), Ok(Numerics::CPU), "{device} {precision:?}");
        }
        assert_eq!(resolve("cuda:1", None), Err(NumericsError::NoCuda(1)));
        assert_eq!(resolve("cuda", Some("bf16")), Err(NumericsError::NoCuda(0)));
        assert_eq!(resolve("auto", Some("tf32")), Err(NumericsError::NotOnCpu(Precision::Tf32)));
        for wrong in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
        assert!("f16".parse::<Precision>().is_err());
    }

    /// What stands in keys and in entries of stores.
    #[test]
    fn the_form_in_keys_stays() {
        let text = serde_json::to_string(&Numerics::CPU).unwrap();
        assert_eq!(text, r#"{"device":"cpu","precision":"f32","deterministic":true}"#);
        assert_eq!(Numerics::CPU.to_string(), "cpu f32 deterministic");
        let other = Numerics { device: Device::Cuda, precision: Precision::Bf16, deterministic: false };
        let back: Numerics = serde_json::from_str(&serde_json::to_string(&other).unwrap()).unwrap();
        assert_eq!(back, other);
    }
}
