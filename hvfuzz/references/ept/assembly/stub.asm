; Boots from a disk, enters VMX operation, runs each case on the disk as a guest under EPT, and writes the results back.
;
; The disk has the format that boot.inc describes; the pairs at the start of its body are the watched words (hpa, value).
; REGION_SIZE and TABLES_SIZE are those of memory_map.py.

WATCHED         equ BODY

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

%include "boot.inc"

; ---------------------------------------------------------------- the cases

main:
        mov     ax, DATA_SELECTOR
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     rsp, BOOT
        call    read_batch

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

        call    enter_vmx
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

finished:
        xor     eax, eax
        jmp     finish

        align   8
case:
        dq      0
result:
        dq      0
number:
        dq      0
before_store:
        dq      0, 0
; The "true" MSR permits MOV to CR3 in the guest without an exit.
controls:
        dd      0x481, 0, PIN_BASED_CONTROLS
        dd      0x48e, 1 << 31 | 1 << 7, PROC_BASED_CONTROLS            ; secondary controls, HLT exits
        dd      0x48b, 1 << 1, SECONDARY_CONTROLS                       ; EPT
        dd      0x483, 1 << 21 | 1 << 20 | 1 << 9, EXIT_CONTROLS        ; EFER saved and loaded, 64-bit host
        dd      0
%include "disk.inc"
%include "vmx.inc"
%include "vmcs.inc"

; Pairs (field, value) that are written before each VM entry: fields that a guest may have changed.
guest_fields:
%assign n 0
%rep 6
        dq      GUEST_LIMITS + 2 * n, 0xffffffff
  %assign n n + 1
%endrep
%rep 4
        dq      GUEST_LIMITS + 2 * n, 0x67      ; LDTR, TR, GDTR, IDTR
  %assign n n + 1
%endrep
%assign n 0
%rep 10
        dq      GUEST_BASES + 2 * n, 0
  %assign n n + 1
%endrep
        dq      GUEST_ES_RIGHTS, UNUSABLE, GUEST_DS_RIGHTS, UNUSABLE, GUEST_FS_RIGHTS, UNUSABLE
        dq      GUEST_GS_RIGHTS, UNUSABLE, GUEST_LDTR_RIGHTS, UNUSABLE, GUEST_TR_RIGHTS, BUSY_TSS
        dq      GUEST_INTERRUPTIBILITY, 0, GUEST_ACTIVITY, 0, GUEST_PENDING_DEBUG, 0, ENTRY_INTERRUPTION, 0
        dq      GUEST_DEBUGCTL, 0, GUEST_DR7, 0x400, GUEST_RSP, 0
        dq      EXCEPTION_BITMAP, 0xffffffff
        dq      GUEST_PDPTE1, 0, GUEST_PDPTE2, 0, GUEST_PDPTE3, 0
        dq      -1

; The fields that a case sets, in the order of disk_image._encode.
case_fields:
        dq      EPT_POINTER, ENTRY_CONTROLS, GUEST_CR0, GUEST_CR3, GUEST_CR4, GUEST_EFER, GUEST_RFLAGS, GUEST_RIP
        dq      GUEST_CS_SELECTOR, GUEST_CS_RIGHTS, GUEST_SS_SELECTOR, GUEST_SS_RIGHTS, GUEST_PDPTE0
CASE_FIELDS     equ ($ - case_fields) / 8

; The fields in a result, in the order of disk_image._decode.
result_fields:
        dq      EXIT_REASON, EXIT_QUALIFICATION, GUEST_PHYSICAL_ADDRESS, GUEST_LINEAR_ADDRESS
        dq      EXIT_INTERRUPTION, EXIT_ERROR_CODE
RESULT_FIELDS   equ ($ - result_fields) / 8
