;; One row of a matrix over GF(2^8) times blocks of bytes: out[i] = sum over c of row[c] x source[c][i].
;; Multiplication by a constant is two table look-ups, one for each half of the byte, sixteen bytes at a time
;; (i8x16.swizzle), because it is linear: c x (high + low) = c x high + c x low.
;;
;; Source of kernel-simd-bytes.ts: `node tools/wat.ts` writes it, wat.test.ts checks that it is current.
(module
  ;; Tables of 16,384 cells, 255 sources and one output of 8 KiB each: 40 pages.
  (memory (export "memory") 40)
  ;; tables   for each source 32 bytes: its factor times 0..15, its factor times 0,16..240
  ;; sources  the first source; the next one follows `stride` bytes later
  ;; count    sources, at least 1
  ;; out      where the sums go, `length` bytes; length is a multiple of 64
  (func (export "dot")
    (param $tables i32) (param $sources i32) (param $stride i32) (param $count i32)
    (param $out i32) (param $length i32)
    (local $end i32) (local $table i32) (local $tablesEnd i32) (local $source i32)
    (local $low v128) (local $high v128) (local $bytes v128)
    (local $sum0 v128) (local $sum1 v128) (local $sum2 v128) (local $sum3 v128)
    (local $half v128)
    (local.set $half (i8x16.splat (i32.const 15)))
    (local.set $end (i32.add (local.get $out) (local.get $length)))
    (local.set $tablesEnd (i32.add (local.get $tables) (i32.shl (local.get $count) (i32.const 5))))
    (block $done
      (loop $column
        (br_if $done (i32.ge_u (local.get $out) (local.get $end)))
        (local.set $sum0 (v128.const i64x2 0 0))
        (local.set $sum1 (v128.const i64x2 0 0))
        (local.set $sum2 (v128.const i64x2 0 0))
        (local.set $sum3 (v128.const i64x2 0 0))
        (local.set $table (local.get $tables))
        (local.set $source (local.get $sources))
        (loop $next
          (local.set $low (v128.load (local.get $table)))
          (local.set $high (v128.load offset=16 (local.get $table)))

          (local.set $bytes (v128.load (local.get $source)))
          (local.set $sum0 (v128.xor (local.get $sum0) (v128.xor
            (i8x16.swizzle (local.get $low) (v128.and (local.get $bytes) (local.get $half)))
            (i8x16.swizzle (local.get $high) (i8x16.shr_u (local.get $bytes) (i32.const 4))))))

          (local.set $bytes (v128.load offset=16 (local.get $source)))
          (local.set $sum1 (v128.xor (local.get $sum1) (v128.xor
            (i8x16.swizzle (local.get $low) (v128.and (local.get $bytes) (local.get $half)))
            (i8x16.swizzle (local.get $high) (i8x16.shr_u (local.get $bytes) (i32.const 4))))))

          (local.set $bytes (v128.load offset=32 (local.get $source)))
          (local.set $sum2 (v128.xor (local.get $sum2) (v128.xor
            (i8x16.swizzle (local.get $low) (v128.and (local.get $bytes) (local.get $half)))
            (i8x16.swizzle (local.get $high) (i8x16.shr_u (local.get $bytes) (i32.const 4))))))

          (local.set $bytes (v128.load offset=48 (local.get $source)))
          (local.set $sum3 (v128.xor (local.get $sum3) (v128.xor
            (i8x16.swizzle (local.get $low) (v128.and (local.get $bytes) (local.get $half)))
            (i8x16.swizzle (local.get $high) (i8x16.shr_u (local.get $bytes) (i32.const 4))))))

          (local.set $source (i32.add (local.get $source) (local.get $stride)))
          (local.set $table (i32.add (local.get $table) (i32.const 32)))
          (br_if $next (i32.lt_u (local.get $table) (local.get $tablesEnd))))
        (v128.store (local.get $out) (local.get $sum0))
        (v128.store offset=16 (local.get $out) (local.get $sum1))
        (v128.store offset=32 (local.get $out) (local.get $sum2))
        (v128.store offset=48 (local.get $out) (local.get $sum3))
        (local.set $sources (i32.add (local.get $sources) (i32.const 64)))
        (local.set $out (i32.add (local.get $out) (i32.const 64)))
        (br $column)))))
