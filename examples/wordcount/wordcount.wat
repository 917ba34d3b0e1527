;; Counts the words of a text that is cut into segments anywhere.
;;
;;   wordcount map       standard input: one segment. Output: its part.
;;   wordcount reduce    standard input: parts, in the order of their segments. Output: one part for all of them.
;;   wordcount finish    as reduce, but the whole text is there: output is a line "WORD COUNT" each, in byte order.
;;   wordcount           standard input: a whole text. Output as of finish.
;;
;; A word is a run of ASCII letters (counted in lower case), digits, apostrophes and bytes above 127 (so that words in
;; UTF-8 stay whole). A border may cut a word in two, so a part names the pieces at its own borders apart:
;;
;;   <LEAD       bytes before the segment's first separator: the end of a word that the segment before may have begun
;;   >TRAIL      bytes after its last one; or a line "=": there is no separator, and LEAD is the whole segment
;;   WORD COUNT  a line for each word between them, in no order that means anything
;;   .           the end of the part
;;
;; Joining parts in order glues each TRAIL to the next LEAD, so that every word is counted once, however often it was
;; cut.
;;
;; Memory: 0 buffers and results of calls, 32 the arguments, 1024 the class of each byte (what it counts as, or zero for
;; a separator), 2048 digits, 8192 input, 73728 output, then the arena, which only grows: words, and the table, which
;; leaves its old place behind when it doubles. The word being read is at the arena's top. A slot of the table is
;; 24 bytes: word, length, hash, nothing, count (eight bytes; zero: the slot is free).
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  (memory (export "memory") 8)
  (data (i32.const 1280) "wordcount: the arguments are none, map, reduce or finish\n")
  (data (i32.const 1408) "wordcount: standard input is not a sequence of parts\n")
  (data (i32.const 1536) "wordcount: out of memory\n")
  (data (i32.const 1664) "wordcount: reading or writing failed\n")

  (global $top (mut i32) (i32.const 139264))
  (global $cap (mut i32) (i32.const 524288))
  ;; The word at the top.
  (global $len (mut i32) (i32.const 0))
  (global $hash (mut i32) (i32.const 0x811c9dc5))
  (global $table (mut i32) (i32.const 0))
  (global $slots (mut i32) (i32.const 0))
  (global $used (mut i32) (i32.const 0))
  ;; Whether a separator was met, and what came before the first.
  (global $seen (mut i32) (i32.const 0))
  (global $lead (mut i32) (i32.const 0))
  (global $lead_len (mut i32) (i32.const 0))
  ;; What waits for the next part while the counts of one are read.
  (global $open (mut i32) (i32.const 0))
  (global $open_len (mut i32) (i32.const 0))
  ;; Bytes waiting in the output.
  (global $out (mut i32) (i32.const 0))

  (func $fail (param $text i32) (param $len i32)
    (i32.store (i32.const 0) (local.get $text))
    (i32.store (i32.const 4) (local.get $len))
    (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $proc_exit (i32.const 2))
    (unreachable))

  ;; Makes room for this many bytes at the top.
  (func $ensure (param $bytes i32)
    (local $pages i32)
    (if (i32.le_u (local.get $bytes) (i32.sub (global.get $cap) (global.get $top))) (then (return)))
    ;; Half as much again as there is, or what is needed if that is more, or not given.
    (local.set $pages (i32.add (i32.shr_u (local.get $bytes) (i32.const 16)) (i32.const 1)))
    (if (i32.lt_u (local.get $pages) (i32.shr_u (global.get $cap) (i32.const 17)))
      (then
        (if (i32.ne (memory.grow (i32.shr_u (global.get $cap) (i32.const 17))) (i32.const -1))
          (then
            (global.set $cap (i32.shl (memory.size) (i32.const 16)))
            (return)))))
    (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1))
      (then (call $fail (i32.const 1536) (i32.const 25))))
    (global.set $cap (i32.shl (memory.size) (i32.const 16))))

  ;; The slot of a word: its own, or a free one.
  (func $find (param $word i32) (param $len i32) (param $hash i32) (result i32)
    (local $at i32) (local $slot i32) (local $i i32)
    (local.set $at (i32.and (local.get $hash) (i32.sub (global.get $slots) (i32.const 1))))
    (loop $probe
      (local.set $slot (i32.add (global.get $table) (i32.mul (local.get $at) (i32.const 24))))
      (if (i64.eqz (i64.load offset=16 (local.get $slot))) (then (return (local.get $slot))))
      (if (i32.and
            (i32.eq (i32.load offset=8 (local.get $slot)) (local.get $hash))
            (i32.eq (i32.load offset=4 (local.get $slot)) (local.get $len)))
        (then
          (local.set $i (i32.const 0))
          (block $differ
            (loop $same
              (if (i32.eq (local.get $i) (local.get $len)) (then (return (local.get $slot))))
              (br_if $differ
                (i32.ne
                  (i32.load8_u (i32.add (i32.load (local.get $slot)) (local.get $i)))
                  (i32.load8_u (i32.add (local.get $word) (local.get $i)))))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br $same)))))
      (local.set $at (i32.and (i32.add (local.get $at) (i32.const 1)) (i32.sub (global.get $slots) (i32.const 1))))
      (br $probe))
    (unreachable))

  ;; Gives the table this many slots, a power of two. No word is being read.
  (func $resize (param $slots i32)
    (local $old i32) (local $end i32) (local $bytes i32) (local $slot i32)
    (local.set $old (global.get $table))
    (local.set $end (i32.add (local.get $old) (i32.mul (global.get $slots) (i32.const 24))))
    (local.set $bytes (i32.mul (local.get $slots) (i32.const 24)))
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    ;; A chunk of input may still need the room that it was promised.
    (call $ensure (i32.add (local.get $bytes) (i32.const 131072)))
    (global.set $table (global.get $top))
    (global.set $slots (local.get $slots))
    (global.set $top (i32.add (global.get $top) (local.get $bytes)))
    (memory.fill (global.get $table) (i32.const 0) (local.get $bytes))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $old) (local.get $end)))
        (if (i32.eqz (i64.eqz (i64.load offset=16 (local.get $old))))
          (then
            (local.set $slot
              (call $find
                (i32.load (local.get $old)) (i32.load offset=4 (local.get $old)) (i32.load offset=8 (local.get $old))))
            (memory.copy (local.get $slot) (local.get $old) (i32.const 24))))
        (local.set $old (i32.add (local.get $old) (i32.const 24)))
        (br $next))))

  ;; Counts the word at the top, and is ready for the next.
  (func $count (param $by i64)
    (local $slot i32)
    (if (i32.eqz (global.get $len)) (then (return)))
    (local.set $slot (call $find (global.get $top) (global.get $len) (global.get $hash)))
    (if (i64.eqz (i64.load offset=16 (local.get $slot)))
      (then
        (i32.store (local.get $slot) (global.get $top))
        (i32.store offset=4 (local.get $slot) (global.get $len))
        (i32.store offset=8 (local.get $slot) (global.get $hash))
        (i64.store offset=16 (local.get $slot) (local.get $by))
        (global.set $top (i32.add (global.get $top) (global.get $len)))
        (global.set $used (i32.add (global.get $used) (i32.const 1)))
        (if (i32.gt_u (i32.shl (global.get $used) (i32.const 1)) (global.get $slots))
          (then (call $resize (i32.shl (global.get $slots) (i32.const 1))))))
      (else
        (i64.store offset=16 (local.get $slot) (i64.add (i64.load offset=16 (local.get $slot)) (local.get $by)))))
    (global.set $len (i32.const 0))
    (global.set $hash (i32.const 0x811c9dc5)))

  ;; The word at the top stays there; the next starts behind it.
  (func $keep
    (global.set $top (i32.add (global.get $top) (global.get $len)))
    (global.set $len (i32.const 0))
    (global.set $hash (i32.const 0x811c9dc5)))

  (func $byte (param $byte i32)
    (i32.store8 (i32.add (global.get $top) (global.get $len)) (local.get $byte))
    (global.set $len (i32.add (global.get $len) (i32.const 1)))
    (global.set $hash (i32.mul (i32.xor (global.get $hash) (local.get $byte)) (i32.const 16777619))))

  ;; Makes earlier bytes the beginning of the word at the top.
  (func $load (param $from i32) (param $len i32)
    (local $end i32)
    (call $ensure (i32.add (local.get $len) (i32.const 131072)))
    (local.set $end (i32.add (local.get $from) (local.get $len)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $from) (local.get $end)))
        (call $byte (i32.load8_u (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 1)))
        (br $next))))

  ;; A separator stands after the word at the top.
  (func $border
    (if (global.get $seen)
      (then (call $count (i64.const 1)))
      (else
        (global.set $seen (i32.const 1))
        (global.set $lead (global.get $top))
        (global.set $lead_len (global.get $len))
        (call $keep))))

  ;; Reads a chunk of input and makes room for it at the top. The answer is where it ends.
  (func $read (result i32)
    (i32.store (i32.const 0) (i32.const 8192))
    (i32.store (i32.const 4) (i32.const 65536))
    (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
      (then (call $fail (i32.const 1664) (i32.const 37))))
    (call $ensure (i32.add (global.get $len) (i32.const 131072)))
    (i32.add (i32.const 8192) (i32.load (i32.const 8))))

  (func $classes
    (local $byte i32)
    (loop $next
      (if (i32.or
            (i32.or
              (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26))
              (i32.lt_u (i32.sub (local.get $byte) (i32.const 48)) (i32.const 10)))
            (i32.or (i32.eq (local.get $byte) (i32.const 39)) (i32.ge_u (local.get $byte) (i32.const 128))))
        (then (i32.store8 offset=1024 (local.get $byte) (local.get $byte))))
      (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 65)) (i32.const 26))
        (then (i32.store8 offset=1024 (local.get $byte) (i32.add (local.get $byte) (i32.const 32)))))
      (local.set $byte (i32.add (local.get $byte) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $byte) (i32.const 256)))))

  ;; Counts a text. The word being read is in locals: this loop sees every byte.
  (func $text
    (local $at i32) (local $end i32) (local $class i32) (local $top i32) (local $len i32) (local $hash i32)
    (call $classes)
    (local.set $top (global.get $top))
    (local.set $hash (global.get $hash))
    (loop $chunk
      (global.set $len (local.get $len))
      (global.set $hash (local.get $hash))
      (local.set $end (call $read))
      (local.set $at (i32.const 8192))
      (if (i32.eq (local.get $at) (local.get $end)) (then (return)))
      (loop $next
        (local.set $class (i32.load8_u offset=1024 (i32.load8_u (local.get $at))))
        (if (local.get $class)
          (then
            (i32.store8 (i32.add (local.get $top) (local.get $len)) (local.get $class))
            (local.set $len (i32.add (local.get $len) (i32.const 1)))
            (local.set $hash (i32.mul (i32.xor (local.get $hash) (local.get $class)) (i32.const 16777619))))
          (else
            (if (i32.or (local.get $len) (i32.eqz (global.get $seen)))
              (then
                (global.set $len (local.get $len))
                (global.set $hash (local.get $hash))
                (call $border)
                (local.set $top (global.get $top))
                (local.set $len (global.get $len))
                (local.set $hash (global.get $hash))))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
      (br $chunk)))

  (func $malformed (call $fail (i32.const 1408) (i32.const 53)))

  ;; What waits for the next part is the word at the top.
  (func $set_open
    (global.set $open (global.get $top))
    (global.set $open_len (global.get $len))
    (call $keep))

  ;; Joins parts. States: 0 a part may begin, 1 in LEAD, 2 after it, 3 in TRAIL, 4 a line begins, 5 in WORD, 6 in COUNT,
  ;; 7 after the last dot, 8 after "=".
  (func $parts
    (local $at i32) (local $end i32) (local $byte i32) (local $state i32) (local $number i64)
    (block $ended
      (loop $chunk
        (local.set $end (call $read))
        (local.set $at (i32.const 8192))
        (br_if $ended (i32.eq (local.get $at) (local.get $end)))
        (loop $next
          (local.set $byte (i32.load8_u (local.get $at)))
          (block $taken
            (block $8 (block $7 (block $6 (block $5 (block $4 (block $3 (block $2 (block $1 (block $0
              (br_table $0 $1 $2 $3 $4 $5 $6 $7 $8 (local.get $state)))
              ;; 0
              (if (i32.ne (local.get $byte) (i32.const 60)) (then (call $malformed)))
              (call $load (global.get $open) (global.get $open_len))
              (local.set $state (i32.const 1))
              (br $taken))
              ;; 1
              (if (i32.eq (local.get $byte) (i32.const 10))
                (then (local.set $state (i32.const 2)))
                (else (call $byte (local.get $byte))))
              (br $taken))
              ;; 2
              (if (i32.eq (local.get $byte) (i32.const 62))
                (then
                  (call $border)
                  (local.set $state (i32.const 3)))
                (else
                  (if (i32.ne (local.get $byte) (i32.const 61)) (then (call $malformed)))
                  (local.set $state (i32.const 8))))
              (br $taken))
              ;; 3
              (if (i32.eq (local.get $byte) (i32.const 10))
                (then
                  (call $set_open)
                  (local.set $state (i32.const 4)))
                (else (call $byte (local.get $byte))))
              (br $taken))
              ;; 4
              (if (i32.eq (local.get $byte) (i32.const 46))
                (then (local.set $state (i32.const 7)))
                (else
                  (call $byte (local.get $byte))
                  (local.set $state (i32.const 5))))
              (br $taken))
              ;; 5
              (if (i32.eq (local.get $byte) (i32.const 32))
                (then
                  (local.set $number (i64.const 0))
                  (local.set $state (i32.const 6)))
                (else
                  (if (i32.eq (local.get $byte) (i32.const 10)) (then (call $malformed)))
                  (call $byte (local.get $byte))))
              (br $taken))
              ;; 6
              (if (i32.eq (local.get $byte) (i32.const 10))
                (then
                  ;; A count of zero would look like a free slot.
                  (if (i64.eqz (local.get $number)) (then (call $malformed)))
                  (call $count (local.get $number))
                  (local.set $state (i32.const 4)))
                (else
                  (local.set $byte (i32.sub (local.get $byte) (i32.const 48)))
                  (if (i32.gt_u (local.get $byte) (i32.const 9)) (then (call $malformed)))
                  (local.set $number
                    (i64.add (i64.mul (local.get $number) (i64.const 10)) (i64.extend_i32_u (local.get $byte))))))
              (br $taken))
              ;; 7
              (if (i32.ne (local.get $byte) (i32.const 10)) (then (call $malformed)))
              (local.set $state (i32.const 0))
              (br $taken))
            ;; 8
            (if (i32.ne (local.get $byte) (i32.const 10)) (then (call $malformed)))
            (call $set_open)
            (local.set $state (i32.const 4)))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
        (br $chunk)))
    (if (local.get $state) (then (call $malformed)))
    (call $load (global.get $open) (global.get $open_len)))

  (func $write (param $from i32) (param $len i32)
    (block $done
      (loop $more
        (br_if $done (i32.eqz (local.get $len)))
        (i32.store (i32.const 0) (local.get $from))
        (i32.store (i32.const 4) (local.get $len))
        (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
          (then (call $fail (i32.const 1664) (i32.const 37))))
        (local.set $from (i32.add (local.get $from) (i32.load (i32.const 8))))
        (local.set $len (i32.sub (local.get $len) (i32.load (i32.const 8))))
        (br $more))))

  (func $flush
    (call $write (i32.const 73728) (global.get $out))
    (global.set $out (i32.const 0)))

  (func $put (param $from i32) (param $len i32)
    (if (i32.gt_u (local.get $len) (i32.sub (i32.const 65536) (global.get $out))) (then (call $flush)))
    (if (i32.gt_u (local.get $len) (i32.const 65536))
      (then (call $write (local.get $from) (local.get $len)))
      (else
        (memory.copy (i32.add (i32.const 73728) (global.get $out)) (local.get $from) (local.get $len))
        (global.set $out (i32.add (global.get $out) (local.get $len))))))

  (func $put_byte (param $byte i32)
    (i32.store8 (i32.const 2112) (local.get $byte))
    (call $put (i32.const 2112) (i32.const 1)))

  (func $put_slot (param $slot i32)
    (local $number i64) (local $at i32)
    (call $put (i32.load (local.get $slot)) (i32.load offset=4 (local.get $slot)))
    (call $put_byte (i32.const 32))
    (local.set $number (i64.load offset=16 (local.get $slot)))
    (local.set $at (i32.const 2112))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
      (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
      (br_if $digit (i32.eqz (i64.eqz (local.get $number)))))
    (call $put (local.get $at) (i32.sub (i32.const 2112) (local.get $at)))
    (call $put_byte (i32.const 10)))

  ;; Writes a part.
  (func $put_part
    (local $slot i32) (local $end i32)
    (call $put_byte (i32.const 60))
    (if (global.get $seen)
      (then
        (call $put (global.get $lead) (global.get $lead_len))
        (call $put_byte (i32.const 10))
        (call $put_byte (i32.const 62))
        (call $put (global.get $top) (global.get $len)))
      (else
        (call $put (global.get $top) (global.get $len))
        (call $put_byte (i32.const 10))
        (call $put_byte (i32.const 61))))
    (call $put_byte (i32.const 10))
    (local.set $slot (global.get $table))
    (local.set $end (i32.add (local.get $slot) (i32.mul (global.get $slots) (i32.const 24))))
    (loop $next
      (if (i32.eqz (i64.eqz (i64.load offset=16 (local.get $slot)))) (then (call $put_slot (local.get $slot))))
      (local.set $slot (i32.add (local.get $slot) (i32.const 24)))
      (br_if $next (i32.lt_u (local.get $slot) (local.get $end))))
    (call $put_byte (i32.const 46))
    (call $put_byte (i32.const 10))
    (call $flush))

  ;; Whether the word of one slot comes before that of another, in byte order.
  (func $before (param $a i32) (param $b i32) (result i32)
    (local $len i32) (local $i i32) (local $x i32) (local $y i32)
    (local.set $len (i32.load offset=4 (local.get $a)))
    (if (i32.lt_u (i32.load offset=4 (local.get $b)) (local.get $len))
      (then (local.set $len (i32.load offset=4 (local.get $b)))))
    (block $equal
      (loop $next
        (br_if $equal (i32.eq (local.get $i) (local.get $len)))
        (local.set $x (i32.load8_u (i32.add (i32.load (local.get $a)) (local.get $i))))
        (local.set $y (i32.load8_u (i32.add (i32.load (local.get $b)) (local.get $i))))
        (if (i32.ne (local.get $x) (local.get $y)) (then (return (i32.lt_u (local.get $x) (local.get $y)))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (i32.lt_u (i32.load offset=4 (local.get $a)) (i32.load offset=4 (local.get $b))))

  ;; Merges two sorted runs of slots, from..middle and middle..end, into another place.
  (func $merge (param $from i32) (param $middle i32) (param $end i32) (param $to i32)
    (local $left i32) (local $right i32)
    (local.set $left (local.get $from))
    (local.set $right (local.get $middle))
    (block $done
      (loop $next
        (br_if $done
          (i32.and
            (i32.eq (local.get $left) (local.get $middle)) (i32.eq (local.get $right) (local.get $end))))
        (if (if (result i32) (i32.eq (local.get $left) (local.get $middle))
              (then (i32.const 0))
              (else
                (if (result i32) (i32.eq (local.get $right) (local.get $end))
                  (then (i32.const 1))
                  (else
                    (i32.eqz (call $before (i32.load (local.get $right)) (i32.load (local.get $left))))))))
          (then
            (i32.store (local.get $to) (i32.load (local.get $left)))
            (local.set $left (i32.add (local.get $left) (i32.const 4))))
          (else
            (i32.store (local.get $to) (i32.load (local.get $right)))
            (local.set $right (i32.add (local.get $right) (i32.const 4)))))
        (local.set $to (i32.add (local.get $to) (i32.const 4)))
        (br $next))))

  (func $min (param $a i32) (param $b i32) (result i32)
    (select (local.get $a) (local.get $b) (i32.lt_u (local.get $a) (local.get $b))))

  ;; Writes the counts of a whole text, sorted.
  (func $put_sorted
    (local $slot i32) (local $end i32) (local $a i32) (local $b i32) (local $bytes i32) (local $width i32) (local $i i32)
    (local $to i32)
    ;; At the borders of the whole text, words end.
    (call $count (i64.const 1))
    (call $load (global.get $lead) (global.get $lead_len))
    (call $count (i64.const 1))
    (local.set $bytes (i32.shl (global.get $used) (i32.const 2)))
    (call $ensure (i32.add (i32.shl (local.get $bytes) (i32.const 1)) (i32.const 8)))
    (local.set $a (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (local.set $b (i32.add (local.get $a) (local.get $bytes)))
    (local.set $to (local.get $a))
    (local.set $slot (global.get $table))
    (local.set $end (i32.add (local.get $slot) (i32.mul (global.get $slots) (i32.const 24))))
    (loop $next
      (if (i32.eqz (i64.eqz (i64.load offset=16 (local.get $slot))))
        (then
          (i32.store (local.get $to) (local.get $slot))
          (local.set $to (i32.add (local.get $to) (i32.const 4)))))
      (local.set $slot (i32.add (local.get $slot) (i32.const 24)))
      (br_if $next (i32.lt_u (local.get $slot) (local.get $end))))
    (local.set $width (i32.const 4))
    (block $sorted
      (loop $wider
        (br_if $sorted (i32.ge_u (local.get $width) (local.get $bytes)))
        (local.set $i (i32.const 0))
        (loop $pair
          (call $merge
            (i32.add (local.get $a) (local.get $i))
            (i32.add (local.get $a) (call $min (i32.add (local.get $i) (local.get $width)) (local.get $bytes)))
            (i32.add (local.get $a)
              (call $min (i32.add (local.get $i) (i32.shl (local.get $width) (i32.const 1))) (local.get $bytes)))
            (i32.add (local.get $b) (local.get $i)))
          (local.set $i (i32.add (local.get $i) (i32.shl (local.get $width) (i32.const 1))))
          (br_if $pair (i32.lt_u (local.get $i) (local.get $bytes))))
        (local.set $to (local.get $a))
        (local.set $a (local.get $b))
        (local.set $b (local.get $to))
        (local.set $width (i32.shl (local.get $width) (i32.const 1)))
        (br $wider)))
    (local.set $end (i32.add (local.get $a) (local.get $bytes)))
    (block $done
      (loop $out
        (br_if $done (i32.ge_u (local.get $a) (local.get $end)))
        (call $put_slot (i32.load (local.get $a)))
        (local.set $a (i32.add (local.get $a) (i32.const 4)))
        (br $out)))
    (call $flush))

  (func (export "_start")
    (local $mode i32)
    (call $resize (i32.const 4096))
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (if (i32.or (i32.gt_u (i32.load (i32.const 0)) (i32.const 2)) (i32.gt_u (i32.load (i32.const 4)) (i32.const 512)))
      (then (call $fail (i32.const 1280) (i32.const 57))))
    (if (i32.eq (i32.load (i32.const 0)) (i32.const 2))
      (then
        (drop (call $args_get (i32.const 32) (i32.const 96)))
        (local.set $mode (i32.load8_u (i32.load (i32.const 36))))))
    (block $no (block $finish (block $reduce (block $map (block $count
      (br_if $count (i32.eqz (local.get $mode)))
      (br_if $map (i32.eq (local.get $mode) (i32.const 109)))
      (br_if $reduce (i32.eq (local.get $mode) (i32.const 114)))
      (br_if $finish (i32.eq (local.get $mode) (i32.const 102)))
      (br $no))
      (call $text)
      (call $put_sorted)
      (return))
      (call $text)
      (call $put_part)
      (return))
      (call $parts)
      (call $put_part)
      (return))
      (call $parts)
      (call $put_sorted)
      (return))
    (call $fail (i32.const 1280) (i32.const 57))))
