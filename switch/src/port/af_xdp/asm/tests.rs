//! Instructions against the kernel's header, and programs that are wrong.

use super::*;

#[test]
fn instructions_are_encoded_as_the_kernel_s_header_has_them() {
    let mut a = Assembler::new();
    a.set(Reg::R0, 2);
    a.set(Reg::R6, Reg::R1);
    a.alu(Op::Add, Reg::R4, 14);
    a.from_big_endian16(Reg::R5);
    a.load(Size::Word, Reg::R2, Reg::R1, 16);
    a.store(Size::Double, Reg::R10, -8, Reg::R3);
    a.store(Size::Byte, Reg::R10, -9, 7);
    a.load_map(Reg::R1, 5);
    a.load_map_value(Reg::R1, 5, 9);
    a.call(Helper::RedirectMap);
    a.exit();
    // Written by hand after `struct bpf_insn`, little-endian machines.
    let expected: [[u8; 8]; 13] = [
        [0xb7, 0x00, 0, 0, 2, 0, 0, 0],
        [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
        [0x07, 0x04, 0, 0, 14, 0, 0, 0],
        [0xdc, 0x05, 0, 0, 16, 0, 0, 0],
        [0x61, 0x12, 16, 0, 0, 0, 0, 0],
        [0x7b, 0x3a, 0xf8, 0xff, 0, 0, 0, 0],
        [0x72, 0x0a, 0xf7, 0xff, 7, 0, 0, 0],
        [0x18, 0x11, 0, 0, 5, 0, 0, 0],
        [0; 8],
        [0x18, 0x21, 0, 0, 5, 0, 0, 0],
        [0, 0, 0, 0, 9, 0, 0, 0],
        [0x85, 0x00, 0, 0, 51, 0, 0, 0],
        [0x95, 0x00, 0, 0, 0, 0, 0, 0],
    ];
    let code = a.finish().unwrap();
    assert_eq!(code.len(), expected.len());
    if cfg!(target_endian = "little") {
        assert_eq!(code.words(), expected.map(u64::from_le_bytes));
    }
}

#[test]
fn jumps_count_from_the_instruction_behind_them() {
    let mut a = Assembler::new();
    let (out, far) = (a.label(), a.label());
    a.jump_if(Reg::R4, If::Above, Reg::R3, out);
    a.jump_if(Reg::R5, If::Equal, 0x8100, far);
    a.jump(far);
    a.bind(out);
    a.set(Reg::R0, 1);
    a.bind(far);
    a.exit();
    let text = a.finish().unwrap().to_string();
    let expected = "0: (2d) if r4 > r3 goto pc+2\n1: (15) if r5 == 0x8100 goto pc+2\n\
                    2: (05) goto pc+1\n3: (b7) r0 = 1\n4: (95) exit\n";
    assert_eq!(text, expected);
}

#[test]
fn a_wrong_program_is_not_finished() {
    let with = |write: fn(&mut Assembler, Label)| {
        let mut a = Assembler::new();
        let label = a.label();
        write(&mut a, label);
        a.exit();
        a.finish().map(drop)
    };
    assert_eq!(with(|a, l| a.jump(l)), Err(AsmError::Unbound { at: 0 }));
    let back = |a: &mut Assembler, l| {
        a.bind(l);
        a.jump(l);
    };
    assert_eq!(with(back), Err(AsmError::Backward { at: 0, to: 0 }));
    let twice = |a: &mut Assembler, l| {
        a.bind(l);
        a.bind(l);
    };
    assert_eq!(with(twice), Err(AsmError::BoundTwice { at: 0 }));
    let far = |a: &mut Assembler, l| {
        a.jump(l);
        (0..=i16::MAX as usize).for_each(|_| a.set(Reg::R0, 0));
        a.bind(l);
    };
    let to = i16::MAX as usize + 2;
    assert_eq!(with(far), Err(AsmError::TooFar { at: 0, to }));
}
