; The guest's code, on the page memory_map.Part.CODE: one routine for each case.Kind, 16 bytes apart. RDI is the address
; of the access; VMCALL reports that it succeeded.

bits 64
        mov     rax, [rdi]              ; LOAD
        vmcall
        align   16
        mov     [rdi], rax              ; STORE
        vmcall
        align   16
        jmp     rdi                     ; FETCH: the target is MOV EAX, imm32; VMCALL
        align   16
        mov     rax, [rdi]              ; UPDATE
        inc     rax
        mov     [rdi], rax
        vmcall
        align   16
bits 32
        mov     cr3, edi                ; PDPTES
        vmcall
        align   16
