//! A small assembler for BPF, since no compiler for it may be at hand.
//!
//! ```text
//!   bits   | 8 opcode | 4 destination | 4 source | 16 offset | 32 immediate |   one instruction
//! ```
//!
//! - Encodings are those of `linux/bpf.h` and `linux/bpf_common.h` (RFC 9669). Only what the programs
//!   here use is there; all arithmetic is on 64 bits.
//! - Jumps only lead forward, to a label that is bound once: so a program ends, and the offset of a jump
//!   is checked when the program is finished.
//! - [`Code`]'s text is what the kernel's verifier prints of the same instructions.

#![allow(dead_code, reason = "a set of instructions, whole; its tests encode each")]

use core::fmt::{self, Display, Formatter};
use thiserror::Error;

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reg {
    /// Result of calls and of the program.
    R0,
    /// First argument; at the start the context.
    R1,
    R2,
    R3,
    R4,
    R5,
    /// Kept over calls, as the next three.
    R6,
    R7,
    R8,
    R9,
    /// The end of the stack; never written.
    R10,
}

/// How many bytes are loaded or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Byte,
    Half,
    Word,
    Double,
}

impl Size {
    const fn code(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Half => 0x08,
            Self::Byte => 0x10,
            Self::Double => 0x18,
        }
    }

    const fn of(code: u8) -> &'static str {
        match code & 0x18 {
            0x00 => "u32",
            0x08 => "u16",
            0x10 => "u8",
            _ => "u64",
        }
    }
}

/// Arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Add = 0x00,
    Subtract = 0x10,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Move = 0xb0,
}

impl Op {
    const fn text(code: u8) -> &'static str {
        match code & 0xf0 {
            0x00 => "+=",
            0x10 => "-=",
            0x40 => "|=",
            0x50 => "&=",
            0x60 => "<<=",
            0x70 => ">>=",
            _ => "=",
        }
    }
}

/// When a jump is taken; comparisons are of unsigned numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum If {
    Equal = 0x10,
    Above = 0x20,
    NotEqual = 0x50,
    Below = 0xa0,
}

impl If {
    const fn text(code: u8) -> &'static str {
        match code & 0xf0 {
            0x10 => "==",
            0x20 => ">",
            0x50 => "!=",
            _ => "<",
        }
    }
}

/// The second operand of an instruction. An immediate is extended with its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Reg(Reg),
    Imm(i32),
}

impl From<Reg> for Value {
    fn from(reg: Reg) -> Self {
        Self::Reg(reg)
    }
}

impl From<i32> for Value {
    fn from(imm: i32) -> Self {
        Self::Imm(imm)
    }
}

/// A function of the kernel (`enum bpf_func_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Helper {
    MapLookup = 1,
    MapUpdate = 2,
    /// Nanoseconds since the system began.
    Time = 5,
    /// Out of a packet to the stack.
    LoadBytes = 26,
    RedirectMap = 51,
}

impl Helper {
    const fn text(number: i32) -> &'static str {
        match number {
            1 => "bpf_map_lookup_elem",
            2 => "bpf_map_update_elem",
            5 => "bpf_ktime_get_ns",
            26 => "bpf_skb_load_bytes",
            51 => "bpf_redirect_map",
            _ => "unknown",
        }
    }
}

/// A place that jumps lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Why a program could not be finished: a bug of its author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum AsmError {
    #[error("a jump at instruction {at} leads to a label that was never bound")]
    Unbound { at: usize },
    #[error("a label is bound twice, again at instruction {at}")]
    BoundTwice { at: usize },
    #[error("the jump at instruction {at} leads back to {to}")]
    Backward { at: usize, to: usize },
    #[error("the jump at instruction {at} to {to} is too far")]
    TooFar { at: usize, to: usize },
}

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    dst: u8,
    src: u8,
    offset: i16,
    imm: i32,
}

impl Instruction {
    const NONE: Self = Self { code: 0, dst: 0, src: 0, offset: 0, imm: 0 };

    fn bytes(self) -> [u8; 8] {
        // The two register fields are C bit fields: their places follow the machine's byte order.
        let registers = if cfg!(target_endian = "big") {
            self.dst << 4 | self.src
        } else {
            self.src << 4 | self.dst
        };
        let [a, b] = self.offset.to_ne_bytes();
        let [c, d, e, f] = self.imm.to_ne_bytes();
        [self.code, registers, a, b, c, d, e, f]
    }
}

const LD_IMM64: u8 = 0x18;
const LDX_MEM: u8 = 0x61;
const ST_MEM: u8 = 0x62;
const STX_MEM: u8 = 0x63;
const CLASS_JMP: u8 = 0x05;
const CLASS_ALU64: u8 = 0x07;
const GOTO: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Class `ALU`, `BPF_END`, `BPF_TO_BE`.
const TO_BIG_ENDIAN: u8 = 0xdc;
/// The second operand is a register (`BPF_X`).
const REGISTER: u8 = 0x08;
/// `BPF_PSEUDO_MAP_FD`.
const MAP_DESCRIPTOR: u8 = 1;
/// `BPF_PSEUDO_MAP_VALUE`.
const MAP_VALUE: u8 = 2;

/// A program being written. A mistake is remembered and told by [`Assembler::finish`].
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// Jumps, by the instruction that has them.
    jumps: Vec<(usize, Label)>,
    /// Where each label was bound.
    labels: Vec<Option<usize>>,
    error: Option<AsmError>,
}

impl Assembler {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A label for jumps that come before its place.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next instruction is the label's place.
    pub(super) fn bind(&mut self, label: Label) {
        let at = self.code.len();
        match self.labels.get_mut(label.0) {
            Some(place @ None) => *place = Some(at),
            _ => self.error = self.error.or(Some(AsmError::BoundTwice { at })),
        }
    }

    fn put(&mut self, instruction: Instruction) {
        self.code.push(instruction);
    }

    /// Completes an instruction by its second operand.
    fn put_value(&mut self, code: u8, dst: Reg, offset: i16, value: Value) {
        let (code, src, imm) = match value {
            Value::Reg(src) => (code | REGISTER, src as u8, 0),
            Value::Imm(imm) => (code, 0, imm),
        };
        self.put(Instruction { code, dst: dst as u8, src, offset, imm });
    }

    /// `dst op= value`
    pub(super) fn alu(&mut self, op: Op, dst: Reg, value: impl Into<Value>) {
        self.put_value(CLASS_ALU64 | op as u8, dst, 0, value.into());
    }

    /// `dst = value`
    pub(super) fn set(&mut self, dst: Reg, value: impl Into<Value>) {
        self.alu(Op::Move, dst, value);
    }

    /// Turns a number of 16 bits that was loaded from a packet into the machine's order; the bits
    /// above are cleared.
    pub(super) fn from_big_endian16(&mut self, reg: Reg) {
        let (code, dst) = (TO_BIG_ENDIAN, reg as u8);
        self.put(Instruction { code, dst, imm: 16, ..Instruction::NONE });
    }

    /// `dst = *(size *)(base + offset)`
    pub(super) fn load(&mut self, size: Size, dst: Reg, base: Reg, offset: i16) {
        let code = LDX_MEM | size.code();
        self.put(Instruction { code, dst: dst as u8, src: base as u8, offset, imm: 0 });
    }

    /// `*(size *)(base + offset) = value`
    pub(super) fn store(&mut self, size: Size, base: Reg, offset: i16, value: impl Into<Value>) {
        let (code, src, imm) = match value.into() {
            Value::Reg(src) => (STX_MEM, src as u8, 0),
            Value::Imm(imm) => (ST_MEM, 0, imm),
        };
        let code = code | size.code();
        self.put(Instruction { code, dst: base as u8, src, offset, imm });
    }

    /// `dst = ` the map behind a descriptor.
    pub(super) fn load_map(&mut self, dst: Reg, descriptor: i32) {
        let (code, dst, src) = (LD_IMM64, dst as u8, MAP_DESCRIPTOR);
        self.put(Instruction { code, dst, src, offset: 0, imm: descriptor });
        self.put(Instruction::NONE);
    }

    /// `dst = ` the address of a byte of the only value of the array behind a descriptor.
    pub(super) fn load_map_value(&mut self, dst: Reg, descriptor: i32, at: i32) {
        let (code, dst, src) = (LD_IMM64, dst as u8, MAP_VALUE);
        self.put(Instruction { code, dst, src, offset: 0, imm: descriptor });
        self.put(Instruction { imm: at, ..Instruction::NONE });
    }

    /// `goto label`
    pub(super) fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.put(Instruction { code: GOTO, ..Instruction::NONE });
    }

    /// `if dst condition value goto label`
    pub(super) fn jump_if(
        &mut self,
        dst: Reg,
        condition: If,
        value: impl Into<Value>,
        label: Label,
    ) {
        self.jumps.push((self.code.len(), label));
        self.put_value(CLASS_JMP | condition as u8, dst, 0, value.into());
    }

    /// `r0 = helper(r1, r2, ...)`; registers 1 to 5 are lost.
    pub(super) fn call(&mut self, helper: Helper) {
        self.put(Instruction { code: CALL, imm: helper as i32, ..Instruction::NONE });
    }

    /// Ends the program with what register 0 holds.
    pub(super) fn exit(&mut self) {
        self.put(Instruction { code: EXIT, ..Instruction::NONE });
    }

    /// Resolves all jumps.
    ///
    /// # Errors
    /// [`AsmError`]: the program is wrong.
    pub(super) fn finish(self) -> Result<Code, AsmError> {
        let Self { mut code, jumps, labels, error } = self;
        if let Some(error) = error {
            return Err(error);
        }
        for (at, label) in jumps {
            let to = labels.get(label.0).copied().flatten().ok_or(AsmError::Unbound { at })?;
            // Relative to the instruction behind the jump.
            let distance = to.checked_sub(at + 1).ok_or(AsmError::Backward { at, to })?;
            let offset = i16::try_from(distance).map_err(|_| AsmError::TooFar { at, to })?;
            if let Some(jump) = code.get_mut(at) {
                jump.offset = offset;
            }
        }
        Ok(Code { instructions: code })
    }
}

/// A finished program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    instructions: Vec<Instruction>,
}

impl Code {
    /// As the kernel takes it: an instruction in each element.
    pub(super) fn words(&self) -> Vec<u64> {
        self.instructions.iter().map(|i| u64::from_ne_bytes(i.bytes())).collect()
    }

    /// Number of instructions.
    pub(super) fn len(&self) -> usize {
        self.instructions.len()
    }
}

impl Display for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut is_second_half = false;
        for (number, i) in self.instructions.iter().enumerate() {
            if !is_second_half {
                writeln!(f, "{number}: {i}")?;
            }
            is_second_half = i.code == LD_IMM64 && !is_second_half;
        }
        Ok(())
    }
}

impl Display for Instruction {
    /// As `kernel/bpf/disasm.c` prints it.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { code, dst, src, offset, imm } = *self;
        write!(f, "({code:02x}) ")?;
        let size = Size::of(code);
        match (code, code & 0x07) {
            (LD_IMM64, _) => write!(f, "r{dst} = map[fd:{imm}]"),
            (GOTO, _) => write!(f, "goto pc{offset:+}"),
            (CALL, _) => write!(f, "call {}#{imm}", Helper::text(imm)),
            (EXIT, _) => write!(f, "exit"),
            (TO_BIG_ENDIAN, _) => write!(f, "r{dst} = be{imm} r{dst}"),
            (_, 0x01) => write!(f, "r{dst} = *({size} *)(r{src} {offset:+})"),
            (_, 0x02) => write!(f, "*({size} *)(r{dst} {offset:+}) = {imm}"),
            (_, 0x03) => write!(f, "*({size} *)(r{dst} {offset:+}) = r{src}"),
            (_, CLASS_ALU64) if code & REGISTER != 0 => {
                write!(f, "r{dst} {} r{src}", Op::text(code))
            }
            (_, CLASS_ALU64) => write!(f, "r{dst} {} {imm}", Op::text(code)),
            (_, CLASS_JMP) if code & REGISTER != 0 => {
                write!(f, "if r{dst} {} r{src} goto pc{offset:+}", If::text(code))
            }
            (_, CLASS_JMP) => {
                write!(f, "if r{dst} {} 0x{imm:x} goto pc{offset:+}", If::text(code))
            }
            _ => write!(f, "unknown"),
        }
    }
}

#[cfg(test)]
mod tests;
