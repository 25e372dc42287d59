# All tests run on the CPU, on machines with a GPU too, unless they say otherwise.
get_property(tests DIRECTORY PROPERTY TESTS)
foreach(test ${tests})
  set_property(TEST ${test} APPEND PROPERTY ENVIRONMENT SYL_DEVICE=cpu)
endforeach()

# Tests of the CUDA runtime without a GPU: a driver that pretends (fake/cuda.c), which the loader finds first. Kernels are compiled by the
# tests themselves.
add_library(fake_cuda SHARED fake/cuda.c)
set_target_properties(fake_cuda PROPERTIES OUTPUT_NAME cuda VERSION 1 SOVERSION 1 LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/fake_cuda)
target_compile_options(fake_cuda PRIVATE -Wno-missing-prototypes -Wno-shadow)
foreach(test runtime_cuda runtime_cuda_emulated runtime_cuda_fused runtime_cuda_observe)
  add_dependencies(unit_${test} fake_cuda)
  target_link_options(unit_${test} PRIVATE -Wl,--wrap=syl_cuda_variants,--wrap=syl_cuda_compile,--wrap=syl_cuda_compile_texts,--wrap=syl_cuda_binaries_destroy)
  set_property(TEST unit/${test} APPEND PROPERTY ENVIRONMENT LD_LIBRARY_PATH=${CMAKE_CURRENT_BINARY_DIR}/fake_cuda)
endforeach()
foreach(test runtime_cuda_tune runtime_cuda_tune_emulated)
  add_dependencies(unit_${test} fake_cuda)
  target_link_options(unit_${test} PRIVATE -Wl,--wrap=syl_cuda_compile,--wrap=syl_cuda_compile_texts,--wrap=syl_cuda_binaries_destroy
                      -Wl,--wrap=syl_nvrtc_find,--wrap=syl_nvrtc_open,--wrap=syl_nvrtc_close)
  set_property(TEST unit/${test} APPEND PROPERTY ENVIRONMENT LD_LIBRARY_PATH=${CMAKE_CURRENT_BINARY_DIR}/fake_cuda)
endforeach()
# Those that stand in for kernels know single ones.
foreach(test runtime_cuda runtime_cuda_observe runtime_cuda_tune)
  set_property(TEST unit/${test} APPEND PROPERTY ENVIRONMENT SYL_CUDA_FUSE=0)
endforeach()
foreach(test runtime_cuda_choose runtime_cuda_emulated runtime_cuda_fused runtime_cuda_tune_emulated)
  target_compile_definitions(unit_${test} PRIVATE SYL_CXX="${CMAKE_CXX_COMPILER}")
endforeach()
# Minutes under the address sanitizer, whose own work is most of it: generated kernels on the emulation. The generators are under it in other tests.
set_tests_properties(unit/codegen_cuda_attention unit/codegen_cuda_rows unit/runtime_cuda_choose unit/runtime_cuda_fused unit/runtime_cuda_tune_emulated PROPERTIES LABELS emulation)
add_test(NAME tools/cuda COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/cuda.py $<TARGET_FILE:syl> ${CMAKE_CURRENT_BINARY_DIR}/fake_cuda ${work}/cuda)
set_tests_properties(tools/cuda PROPERTIES ENVIRONMENT "${environment}")
