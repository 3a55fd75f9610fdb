; A whole guest in one boot sector. On its serial port it says "GUEST <name> UP"; when its power button is pressed it says
; "GUEST <name> ASKED", takes STOP_TICKS (1/18 s each) to settle, says "GUEST <name> OFF" and powers off.
; What it says is also what stood on its disk before: sector MARK holds the text UP, sector MARK+8 the text OFF, each with a
; 16-bit count at byte 64 (how often so far). No marker, no line: a line on the serial port proves a write to the disk.
;
;   nasm -f bin -DNAME="'mailserver'" [-DSTOP_TICKS=18] [-DDEAF] guest.asm
;
; DEAF: hears the button (marks and says ASKED each time) and does not power off.
; The partition table stays empty: LVM would refuse a physical volume that has one.

%ifndef STOP_TICKS
%define STOP_TICKS 0
%endif
%define MARK      2048          ; 1 MiB: the first data sector of an LVM physical volume, behind all metadata
%define BUFFER    0x8000
%define COUNT     (BUFFER + 64)
%define PM_STATUS 0x600         ; PIIX4 as SeaBIOS sets it up on machine "pc"
%define PM_ENABLE 0x602
%define PM_CONTROL 0x604
%define BUTTON    0x100
%define POWER_OFF 0x2000

bits 16
org 0x7c00

        jmp 0:start
start:  xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        sti
        cld
        mov [drive], dl

        mov si, up
        mov eax, MARK
        call mark
        mov dx, PM_ENABLE
        mov ax, BUTTON
        out dx, ax
        mov si, up
        call say

wait_for_button:
        hlt                     ; until the next timer tick: polling without a pause slows the whole host
        mov dx, PM_STATUS
        in ax, dx
        test ax, BUTTON
        jz wait_for_button
        mov ax, BUTTON
        out dx, ax              ; writing a one clears it

%ifdef DEAF
        mov si, asked
        mov eax, MARK + 8
        call mark
        mov si, asked
        call say
        jmp wait_for_button
%else
        mov si, asked
        call say
        mov cx, STOP_TICKS
        jcxz settled
settle: hlt
        loop settle
settled:
        mov si, off
        mov eax, MARK + 8
        call mark
        mov si, off
        call say
        mov dx, PM_CONTROL
        mov ax, POWER_OFF
        out dx, ax
stuck:  hlt
        jmp stuck
%endif

; Writes the text at SI into sector EAX and counts there.
mark:   mov [packet.sector], eax
        mov ah, 0x42
        call disk
        mov di, BUFFER
.copy:  lodsb
        stosb
        test al, al
        jnz .copy
        inc word [COUNT]
        mov ax, 0x4300
; One transfer (AH) between the disk and BUFFER; keeps SI.
disk:   push si
        mov dl, [drive]
        mov si, packet
        int 0x13
        pop si
        jnc return
        mov si, broken
        call say
        jmp $
return: ret

; Sends the text at SI out of the serial port.
say:    mov dx, 0x3fd
.busy:  in al, dx
        test al, 0x20
        jz .busy
        lodsb
        test al, al
        jz return
        mov dx, 0x3f8
        out dx, al
        jmp say

drive:  db 0
packet: db 16, 0
        dw 1, BUFFER, 0
.sector: dq 0

up:     db "GUEST ", NAME, " UP", 13, 10, 0
asked:  db "GUEST ", NAME, " ASKED", 13, 10, 0
%ifndef DEAF
off:    db "GUEST ", NAME, " OFF", 13, 10, 0
%endif
broken: db "GUEST ", NAME, " DISK ERROR", 13, 10, 0

        times 446 - ($ - $$) db 0       ; fails to assemble when the code grows into the partition table
        times 64 db 0
        dw 0xaa55
