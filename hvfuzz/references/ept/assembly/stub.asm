; Boots from a disk, enters VMX operation, runs each case on the disk as a guest under EPT, and writes the results back.
;
; The disk, in sectors of 512 bytes, as disk_image.py writes it:
;       0               the first 512 bytes of this file, to BOOT
;       1 ..            the rest of this file
;       HEADER_SECTOR   u64 cases, watched words, sectors of tables, of cases, of results
;       then            tables, to REGION; watched words (hpa, value) and cases, to HEADER + 512; results, from RESULTS
; HEADER_SECTOR and the addresses CASES, RESULTS, REGION, REGION_SIZE and TABLES_SIZE are defined by bochs.py (-D), from memory_map.py.

PAGES           equ 0x1000              ; the host's own page tables: a PML4 and a PDPT
TSS             equ 0x4000
VMXON_REGION    equ 0x5000
VMCS_REGION     equ 0x6000
BOOT            equ 0x7c00              ; the stack lies below
HEADER          equ CASES
WATCHED         equ HEADER + 512

CODE32_SELECTOR equ 0x08
DATA_SELECTOR   equ 0x10
CODE64_SELECTOR equ 0x18
TSS_SELECTOR    equ 0x20

; Offsets in a case, in bytes; its fields are those of case_fields. The pairs (hpa, value) of its entries follow.
CASE_PAIRS      equ 0
CASE_FIELD      equ 8
CASE_RAX        equ CASE_FIELD + 8 * CASE_FIELDS
CASE_RDI        equ CASE_RAX + 8
CASE_STORED     equ CASE_RDI + 8        ; hpas of the two words that it may store to
CASE_ENTRIES    equ CASE_STORED + 16
; Offsets in a result, in bytes; the watched words follow.
RESULT_NUMBER   equ 0                   ; of the case, from 1: nonzero once the result is written
RESULT_ERROR    equ 8                   ; VM-instruction error of a failed VM entry, else 0
RESULT_FIELD    equ 16
RESULT_RAX      equ RESULT_FIELD + 8 * RESULT_FIELDS
RESULT_STORED   equ RESULT_RAX + 8
RESULT_WATCHED  equ RESULT_STORED + 16

NOT_LAUNCHED    equ 5                   ; VM-instruction error of VMRESUME before VMLAUNCH

; ---------------------------------------------------------------- from the boot sector to 64-bit mode

        org     BOOT
bits 16
        cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, BOOT
        mov     si, stub_address
        mov     ah, 0x42                ; extended read; DL is still the boot drive
        int     0x13
        mov     ax, 0x2401              ; A20 on
        int     0x15
        cli
        mov     di, PAGES
        mov     cx, 0x2000 / 4
        xor     eax, eax
        rep stosd
        mov     dword [PAGES], PAGES + 0x1000 + 3
        mov     di, PAGES + 0x1000
        mov     eax, 0x83               ; map 4 GiB to themselves, by pages of 1 GiB
        mov     cx, 4
.gigabyte:
        mov     [di], eax
        add     di, 8
        add     eax, 1 << 30
        loop    .gigabyte
        mov     eax, PAGES
        mov     cr3, eax
        mov     eax, cr4
        or      al, 1 << 5              ; PAE
        mov     cr4, eax
        mov     ecx, 0xc0000080         ; EFER: LME and NXE
        rdmsr
        or      eax, 0x900
        wrmsr
        lgdt    [gdt_register]
        mov     eax, cr0
        or      eax, 0x80000021         ; PG, NE, PE
        mov     cr0, eax
        jmp     CODE64_SELECTOR:main

stub_address:
        db      16, 0
        dw      HEADER_SECTOR - 1, BOOT + 512, 0
        dq      1
        align   8
gdt:
        dq      0
        dq      0x00cf9b000000ffff
        dq      0x00cf93000000ffff
        dq      0x00af9b000000ffff
        dw      0x67, TSS & 0xffff      ; a busy TSS; the upper half of its descriptor is zero
        db      TSS >> 16, 0x8b, 0, 0
        dq      0
gdt_register:
        dw      $ - gdt - 1
        dd      gdt
        times 510 - ($ - $$) db 0
        dw      0xaa55

; ---------------------------------------------------------------- VMX operation

bits 64
main:
        mov     ax, DATA_SELECTOR
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     rsp, BOOT
        mov     rdi, HEADER
        mov     r8d, HEADER_SECTOR
        mov     r9d, 1
        call    read_sectors
        mov     rdi, REGION
        mov     r9, [HEADER + 16]
        call    read_sectors
        mov     rdi, WATCHED
        mov     r9, [HEADER + 24]
        call    read_sectors
        mov     [results_sector], r8

        ; memory_map.pattern, in the rest of the region.
        mov     rdi, REGION + TABLES_SIZE
        mov     rax, 0xc1010f << 40 | ((REGION + TABLES_SIZE) >> 3) << 8 | 0xb8
        mov     ecx, (REGION_SIZE - TABLES_SIZE) / 8
.pattern:
        mov     [rdi], rax
        add     rax, 1 << 8
        add     rdi, 8
        dec     ecx
        jnz     .pattern

        mov     ecx, 0x3a               ; IA32_FEATURE_CONTROL: lock, VMXON outside SMX
        rdmsr
        test    al, 1
        jnz     .locked
        or      al, 5
        wrmsr
.locked:
        mov     rax, cr4
        or      ah, 1 << 5              ; VMXE
        mov     cr4, rax
        mov     ecx, 0x480              ; IA32_VMX_BASIC: the revision that VMX regions begin with
        rdmsr
        mov     [VMXON_REGION], eax
        mov     [VMCS_REGION], eax
        mov     r15d, 1                 ; the step of the set-up, for `failed`
        vmxon   [vmxon_address]
        jbe     failed
        inc     r15d
        vmclear [vmcs_address]
        jbe     failed
        inc     r15d
        vmptrld [vmcs_address]
        jbe     failed
        inc     r15d
        mov     rsi, controls
        mov     ecx, [rsi]
.control:
        rdmsr                           ; EAX must be set, EDX may be set (SDM Vol. 3D, A.2)
        or      eax, [rsi + 4]
        and     eax, edx
        mov     ebx, [rsi + 8]
        vmwrite rbx, rax
        jbe     failed
        add     rsi, 12
        mov     ecx, [rsi]
        test    ecx, ecx
        jnz     .control
        inc     r15d
        mov     rsi, host_fields
        call    write_fields
        mov     rax, cr0
        mov     ebx, HOST_CR0
        vmwrite rbx, rax
        mov     rax, cr3
        mov     ebx, HOST_CR3
        vmwrite rbx, rax
        mov     rax, cr4
        mov     ebx, HOST_CR4
        vmwrite rbx, rax
        mov     ecx, 0xc0000080
        rdmsr
        mov     ebx, HOST_EFER
        vmwrite rbx, rax
        jbe     failed

; ---------------------------------------------------------------- the cases

        mov     rcx, [HEADER + 8]
        shl     rcx, 4
        lea     r12, [rcx + WATCHED]    ; the case
        mov     r13, RESULTS + 512      ; its result
        xor     r14d, r14d              ; its number
next_case:
        cmp     r14, [HEADER]
        je      finished
        mov     rsi, WATCHED
        mov     rcx, [HEADER + 8]
        call    store_pairs
        lea     rsi, [r12 + CASE_ENTRIES]
        mov     rcx, [r12 + CASE_PAIRS]
        call    store_pairs
        mov     rsi, [r12 + CASE_STORED]
        mov     rax, [rsi]
        mov     [before_store], rax
        mov     rsi, [r12 + CASE_STORED + 8]
        mov     rax, [rsi]
        mov     [before_store + 8], rax
        mov     rsi, guest_fields
        call    write_fields
        xor     ecx, ecx
.field:
        mov     rax, [case_fields + 8 * rcx]
        vmwrite rax, [r12 + CASE_FIELD + 8 * rcx]
        inc     ecx
        cmp     ecx, CASE_FIELDS
        jne     .field
        mov     [case], r12
        mov     [result], r13
        mov     [number], r14
        mov     rax, [r12 + CASE_RAX]
        mov     rdi, [r12 + CASE_RDI]
        vmresume
        mov     ebx, VM_INSTRUCTION_ERROR
        vmread  rcx, rbx
        cmp     ecx, NOT_LAUNCHED
        jne     refused
        vmlaunch
        vmread  rcx, rbx
refused:
        mov     [r13 + RESULT_ERROR], rcx
        mov     [r13 + RESULT_RAX], rax
        jmp     outcome

exited:
        mov     r12, [case]
        mov     r13, [result]
        mov     r14, [number]
        mov     qword [r13 + RESULT_ERROR], 0
        mov     [r13 + RESULT_RAX], rax
        xor     ecx, ecx
.field:
        mov     rax, [result_fields + 8 * rcx]
        vmread  [r13 + RESULT_FIELD + 8 * rcx], rax
        inc     ecx
        cmp     ecx, RESULT_FIELDS
        jne     .field

outcome:
        mov     rsi, [r12 + CASE_STORED]
        mov     rax, [rsi]
        mov     [r13 + RESULT_STORED], rax
        mov     rsi, [r12 + CASE_STORED + 8]
        mov     rax, [rsi]
        mov     [r13 + RESULT_STORED + 8], rax
        mov     rsi, WATCHED
        mov     rcx, [HEADER + 8]
        lea     rdi, [r13 + RESULT_WATCHED]
.watched:
        mov     rax, [rsi]
        mov     rax, [rax]
        stosq
        add     rsi, 16
        loop    .watched
        mov     rsi, [r12 + CASE_STORED]
        mov     rax, [before_store]
        mov     [rsi], rax
        mov     rsi, [r12 + CASE_STORED + 8]
        mov     rax, [before_store + 8]
        mov     [rsi], rax
        inc     r14
        mov     [r13 + RESULT_NUMBER], r14
        mov     r13, rdi
        mov     rcx, [r12 + CASE_PAIRS]
        shl     rcx, 4
        lea     r12, [r12 + rcx + CASE_ENTRIES]
        jmp     next_case

; Stores RCX pairs (hpa, value) from RSI.
store_pairs:
        jrcxz   .done
        mov     rdi, [rsi]
        mov     rax, [rsi + 8]
        mov     [rdi], rax
        add     rsi, 16
        dec     rcx
        jmp     store_pairs
.done:
        ret

; Writes pairs (field, value) from RSI to the VMCS, up to a field of -1.
write_fields:
        mov     rax, [rsi]
        cmp     rax, -1
        je      .done
        vmwrite rax, [rsi + 8]
        jbe     failed
        add     rsi, 16
        jmp     write_fields
.done:
        ret

; The status is the first word of the results: 0 for success, else the step that failed.
failed:
        mov     [RESULTS], r15
        jmp     write_results
finished:
        mov     qword [RESULTS], 0
write_results:
        mov     rsi, RESULTS
        mov     r8, [results_sector]
        mov     r9, [HEADER + 32]
        call    write_sectors
        mov     rsi, shutdown
        mov     dx, 0x8900              ; Bochs ends at this word
        mov     ecx, 8
        rep outsb
        hlt

shutdown:
        db      "Shutdown"
        align   8
vmxon_address:
        dq      VMXON_REGION
vmcs_address:
        dq      VMCS_REGION
results_sector:
        dq      0
case:
        dq      0
result:
        dq      0
number:
        dq      0
before_store:
        dq      0, 0
; (capability MSR, wanted bits, field). The "true" MSR permits MOV to CR3 in the guest without an exit.
controls:
        dd      0x481, 0, PIN_BASED_CONTROLS
        dd      0x48e, 1 << 31 | 1 << 7, PROC_BASED_CONTROLS            ; secondary controls, HLT exits
        dd      0x48b, 1 << 1, SECONDARY_CONTROLS                       ; EPT
        dd      0x483, 1 << 21 | 1 << 20 | 1 << 9, EXIT_CONTROLS        ; EFER saved and loaded, 64-bit host
        dd      0
%include "disk.inc"
%include "vmcs.inc"
