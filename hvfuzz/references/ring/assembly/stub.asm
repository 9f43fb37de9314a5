; Boots from a disk, enters VMX operation, runs each case on the disk as a guest for one instruction, and writes the
; results back.
;
; The guest is entered with blocking by MOV SS and a VMX-preemption timer of 0: the exit of the timer comes after the
; first instruction, or after the delivery of an exception that it raises. An event that the entry injects ends the
; blocking, and the exit comes after its delivery.
;
; The disk has the format that boot.inc describes. The pairs at the start of its body are (hpa of a guest entry, hpa of
; the page that it maps); REGION_SIZE and MSR_BITMAP are those of memory_map.py. There are three copies of the tables:
; the guest's, `BEFORE`, which the case starts from, and `ORIGINAL`.

BEFORE          equ REGION + REGION_SIZE
ORIGINAL        equ BEFORE + REGION_SIZE
PAGE_LIST       equ BODY
DIRTY_BIT       equ 6
PAGE_WORDS      equ 512

; Offsets in a case, in bytes; its fields are those of case_fields, its MSRs those of msr_list. Its words (hpa, value)
; follow.
CASE_PAIRS      equ 0
CASE_FIELD      equ 8
CASE_MSR        equ CASE_FIELD + 8 * CASE_FIELDS
CASE_CR2        equ CASE_MSR + 8 * MSRS
CASE_RAX        equ CASE_CR2 + 8
CASE_RCX        equ CASE_RAX + 8
CASE_RDX        equ CASE_RCX + 8
CASE_RSI        equ CASE_RDX + 8
CASE_RDI        equ CASE_RSI + 8
CASE_R11        equ CASE_RDI + 8
CASE_WORDS      equ CASE_R11 + 8
; Offsets in a result, in bytes. The words that the guest changed follow, as (hpa, value).
RESULT_NUMBER   equ 0                   ; of the case, from 1: nonzero once the result is written
RESULT_ERROR    equ 8                   ; VM-instruction error of a failed VM entry, else 0
RESULT_RAX      equ 16
RESULT_RCX      equ 24
RESULT_RDX      equ 32
RESULT_RSI      equ 40
RESULT_RDI      equ 48
RESULT_R11      equ 56
RESULT_CR2      equ 64
RESULT_CR8      equ 72
RESULT_FIELD    equ 80
RESULT_MSR      equ RESULT_FIELD + 8 * RESULT_FIELDS
RESULT_PAIRS    equ RESULT_MSR + 8 * MSRS
RESULT_WORDS    equ RESULT_PAIRS + 8

RESET_PAT       equ 8                   ; in the results: a word after the status

NOT_LAUNCHED    equ 5                   ; VM-instruction error of VMRESUME before VMLAUNCH

%include "boot.inc"

main:
        mov     ax, DATA_SELECTOR
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     rsp, BOOT
        mov     al, 0xff                ; no interrupts of the PIC
        out     0x21, al
        out     0xa1, al
        call    read_batch
        mov     rsi, REGION
        mov     rdi, BEFORE
        mov     ecx, REGION_SIZE / 8
        rep movsq
        mov     rsi, REGION
        mov     ecx, REGION_SIZE / 8
        rep movsq
        mov     ecx, 0x277              ; IA32_PAT as it is after a reset
        rdmsr
        mov     [RESULTS + RESET_PAT], eax
        mov     [RESULTS + RESET_PAT + 4], edx
        call    enter_vmx
        mov     rcx, [HEADER + 8]
        shl     rcx, 4
        lea     r12, [rcx + PAGE_LIST]  ; the case
        mov     r13, RESULTS + 512      ; its result
        xor     r14d, r14d              ; its number

next_case:
        cmp     r14, [HEADER]
        je      finished
        lea     rsi, [r12 + CASE_WORDS]
        mov     rcx, [r12 + CASE_PAIRS]
        call    store_words
        mov     rsi, guest_fields
        call    write_fields
        xor     ecx, ecx
.field:
        mov     rax, [case_fields + 8 * rcx]
        vmwrite rax, [r12 + CASE_FIELD + 8 * rcx]
        inc     ecx
        cmp     ecx, CASE_FIELDS
        jne     .field
        xor     ebx, ebx
.msr:
        mov     ecx, [msr_list + 4 * rbx]
        mov     eax, [r12 + CASE_MSR + 8 * rbx]
        mov     edx, [r12 + CASE_MSR + 8 * rbx + 4]
        wrmsr
        inc     ebx
        cmp     ebx, MSRS
        jne     .msr
        mov     rax, cr0
        btr     rax, 30                 ; CD and NW, which VM entries and exits do not load
        btr     rax, 29
        mov     cr0, rax
        xor     eax, eax
        mov     cr8, rax
        mov     rax, [r12 + CASE_CR2]
        mov     cr2, rax
        mov     [case], r12
        mov     [result], r13
        mov     [number], r14
        mov     rax, [r12 + CASE_RAX]
        mov     rcx, [r12 + CASE_RCX]
        mov     rdx, [r12 + CASE_RDX]
        mov     rsi, [r12 + CASE_RSI]
        mov     rdi, [r12 + CASE_RDI]
        mov     r11, [r12 + CASE_R11]
        vmresume
        mov     ebx, VM_INSTRUCTION_ERROR
        vmread  rbp, rbx
        cmp     ebp, NOT_LAUNCHED
        jne     refused
        vmlaunch
        vmread  rbp, rbx
refused:
        mov     [r13 + RESULT_ERROR], rbp
        jmp     outcome

exited:
        mov     r13, [result]
        mov     qword [r13 + RESULT_ERROR], 0
outcome:
        mov     [r13 + RESULT_RAX], rax
        mov     [r13 + RESULT_RCX], rcx
        mov     [r13 + RESULT_RDX], rdx
        mov     [r13 + RESULT_RSI], rsi
        mov     [r13 + RESULT_RDI], rdi
        mov     [r13 + RESULT_R11], r11
        mov     rax, cr2
        mov     [r13 + RESULT_CR2], rax
        mov     rax, cr8
        mov     [r13 + RESULT_CR8], rax
        mov     r12, [case]
        mov     r14, [number]
        xor     ecx, ecx
.field:
        mov     rax, [result_fields + 8 * rcx]
        vmread  [r13 + RESULT_FIELD + 8 * rcx], rax
        inc     ecx
        cmp     ecx, RESULT_FIELDS
        jne     .field
        xor     ebx, ebx
.msr:
        mov     ecx, [msr_list + 4 * rbx]
        rdmsr
        mov     [r13 + RESULT_MSR + 8 * rbx], eax
        mov     [r13 + RESULT_MSR + 8 * rbx + 4], edx
        inc     ebx
        cmp     ebx, MSRS
        jne     .msr

        lea     r10, [r13 + RESULT_WORDS]
        mov     r8, PAGE_LIST
        mov     r9, [HEADER + 8]
.page:
        mov     rdx, [r8]
        mov     rax, [rdx]
        bt      eax, DIRTY_BIT
        jnc     .clean
        mov     rsi, [r8 + 8]
        lea     rdi, [rsi + BEFORE - REGION]
        mov     ecx, PAGE_WORDS
.word:
        repe cmpsq
        je      .restore
        lea     rax, [rsi - 8]
        mov     [r10], rax
        mov     rax, [rax]
        mov     [r10 + 8], rax
        add     r10, 16
        test    ecx, ecx
        jnz     .word
.restore:
        mov     rdi, [r8 + 8]
        lea     rsi, [rdi + BEFORE - REGION]
        mov     ecx, PAGE_WORDS
        rep movsq
.clean:
        mov     rax, [rdx]
        mov     rbx, [rdx + BEFORE - REGION]
        cmp     rax, rbx
        je      .next
        mov     [r10], rdx
        mov     [r10 + 8], rax
        add     r10, 16
        mov     [rdx], rbx
.next:
        add     r8, 16
        dec     r9
        jnz     .page
        mov     rax, r10
        sub     rax, r13
        sub     rax, RESULT_WORDS
        shr     rax, 4
        mov     [r13 + RESULT_PAIRS], rax
        inc     r14
        mov     [r13 + RESULT_NUMBER], r14
        mov     r13, r10

        lea     rsi, [r12 + CASE_WORDS]
        mov     rcx, [r12 + CASE_PAIRS]
        jrcxz   .restored
.original:
        mov     rdi, [rsi]
        mov     rax, [rdi + ORIGINAL - REGION]
        mov     [rdi], rax
        mov     [rdi + BEFORE - REGION], rax
        add     rsi, 16
        dec     rcx
        jnz     .original
.restored:
        mov     r12, rsi
        jmp     next_case

finished:
        xor     eax, eax
        jmp     finish

; Stores RCX words (hpa, value) from RSI, for the guest and in `BEFORE`.
store_words:
        jrcxz   .done
        mov     rdi, [rsi]
        mov     rax, [rsi + 8]
        mov     [rdi], rax
        mov     [rdi + BEFORE - REGION], rax
        add     rsi, 16
        dec     rcx
        jmp     store_words
.done:
        ret

        align   8
case:
        dq      0
result:
        dq      0
number:
        dq      0

; (capability MSR, wanted bits, field)
controls:
        dd      0x48d, 1 << 6, PIN_BASED_CONTROLS                       ; VMX-preemption timer
        dd      0x48e, 1 << 31, PROC_BASED_CONTROLS                     ; secondary controls; a case sets its own
        dd      0x48b, 1 << 12 | 1 << 3 | 1 << 1, SECONDARY_CONTROLS    ; INVPCID, RDTSCP, EPT
        dd      0x48f, 1 << 21 | 1 << 20 | 1 << 19 | 1 << 18 | 1 << 9, EXIT_CONTROLS ; EFER, PAT saved, loaded; 64-bit
        dd      0x490, 1 << 15 | 1 << 14 | 1 << 9, ENTRY_CONTROLS       ; EFER, PAT loaded; 64-bit
        dd      0

; MSRs that VM entries and exits do not switch.
msr_list:
        dd      0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103
MSRS            equ ($ - msr_list) / 4

%include "disk.inc"
%include "vmx.inc"
%include "vmcs.inc"

; Pairs (field, value) that are written before each VM entry: fields that a guest may have changed.
guest_fields:
%assign n 0
%rep 7
        dq      GUEST_LIMITS + 2 * n, 0xffffffff        ; ES to LDTR
        dq      GUEST_BASES + 2 * n, 0
  %assign n n + 1
%endrep
        dq      GUEST_ES_RIGHTS, UNUSABLE, GUEST_DS_RIGHTS, UNUSABLE, GUEST_FS_RIGHTS, UNUSABLE
        dq      GUEST_GS_RIGHTS, UNUSABLE, GUEST_LDTR_RIGHTS, UNUSABLE, GUEST_TR_RIGHTS, BUSY_TSS
        dq      GUEST_TR_SELECTOR, TR_SELECTOR, GUEST_GDTR_BASE, GDT_BASE, GUEST_GDTR_LIMIT, GDT_LIMIT
        dq      GUEST_ACTIVITY, 0, GUEST_PENDING_DEBUG, 0, GUEST_DEBUGCTL, 0, GUEST_DR7, 0x400
        dq      PREEMPTION_TIMER, 0, EPT_POINTER, EPTP, MSR_BITMAP_ADDRESS, MSR_BITMAP
        dq      EXCEPTION_BITMAP, 0, HOST_PAT, 0x0007040600070406
        dq      -1

; The fields that a case sets, in the order of disk_image.FIELDS.
case_fields:
        dq      PROC_BASED_CONTROLS, CR0_MASK, CR4_MASK, CR0_SHADOW, CR4_SHADOW
        dq      ENTRY_INTERRUPTION, ENTRY_ERROR_CODE, GUEST_INTERRUPTIBILITY
        dq      GUEST_CR0, GUEST_CR3, GUEST_CR4, GUEST_EFER, GUEST_RFLAGS, GUEST_RIP, GUEST_RSP
        dq      GUEST_CS_SELECTOR, GUEST_CS_RIGHTS, GUEST_SS_SELECTOR, GUEST_SS_RIGHTS
        dq      GUEST_IDTR_BASE, GUEST_IDTR_LIMIT, GUEST_TR_BASE, GUEST_TR_LIMIT
        dq      GUEST_SYSENTER_CS, GUEST_SYSENTER_ESP, GUEST_SYSENTER_EIP, GUEST_PAT, GUEST_FS_BASE, GUEST_GS_BASE
CASE_FIELDS     equ ($ - case_fields) / 8

; The fields in a result, in the order of disk_image.RESULT_FIELDS.
result_fields:
        dq      EXIT_REASON, EXIT_QUALIFICATION, GUEST_PHYSICAL_ADDRESS, GUEST_LINEAR_ADDRESS
        dq      EXIT_INTERRUPTION, EXIT_ERROR_CODE, VECTORING_INFORMATION, VECTORING_ERROR_CODE, INSTRUCTION_LENGTH
        dq      GUEST_RIP, GUEST_RSP, GUEST_RFLAGS, GUEST_CS_SELECTOR, GUEST_CS_RIGHTS
        dq      GUEST_SS_SELECTOR, GUEST_SS_RIGHTS, GUEST_CR0, GUEST_CR3, GUEST_CR4, GUEST_EFER
        dq      GUEST_IDTR_BASE, GUEST_IDTR_LIMIT, GUEST_TR_BASE, GUEST_TR_LIMIT
        dq      GUEST_SYSENTER_CS, GUEST_SYSENTER_ESP, GUEST_SYSENTER_EIP, GUEST_PAT, GUEST_FS_BASE, GUEST_GS_BASE
RESULT_FIELDS   equ ($ - result_fields) / 8
