# The tests that run the command `syl`, and those of the sources themselves. Labels: style (the same in every build), model (needs
# the real model in models/, takes minutes).
set(python python3)
if(EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python3) # made by scripts/check, with tests/requirements.txt
  set(python ${CMAKE_SOURCE_DIR}/.venv/bin/python3)
endif()
set(work ${CMAKE_CURRENT_BINARY_DIR}/work)
# Compiled kernels are cached beside the build, not in the user's folder.
set(environment SYL_CACHE_DIR=${work}/cache PYTHONDONTWRITEBYTECODE=1 ${nvrtc_environment})
file(MAKE_DIRECTORY ${work}/cache)
file(CHMOD ${work}/cache PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)

# Style
add_test(NAME style/includes COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/check_includes)
add_test(NAME style/docs COMMAND python3 ${CMAKE_SOURCE_DIR}/scripts/gen-docs --check)
add_test(NAME style/format COMMAND ${CMAKE_SOURCE_DIR}/scripts/format --check)
set_tests_properties(style/includes style/docs style/format PROPERTIES LABELS style ENVIRONMENT "${environment}")

# Text in, text out: tests/text/**.sir, and .test where the input has no comments to write RUN: lines in
file(GLOB_RECURSE texts CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} text/*.sir text/*.test)
foreach(text ${texts})
  add_test(NAME ${text} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/run_text $<TARGET_FILE:syl> ${CMAKE_CURRENT_SOURCE_DIR}/${text} ${work}/${text})
  set_tests_properties(${text} PROPERTIES ENVIRONMENT "${environment}")
endforeach()

# Malformed inputs: one test a row of malformed/cases.txt, after the files are made
set(malformed ${work}/malformed)
add_test(NAME malformed/files COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/malformed/make.py $<TARGET_FILE:syl> ${malformed})
set_tests_properties(malformed/files PROPERTIES FIXTURES_SETUP malformed ENVIRONMENT "${environment}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS malformed/cases.txt)
file(STRINGS malformed/cases.txt rows REGEX "^[a-z]")
foreach(row ${rows})
  string(REGEX REPLACE " *\\|.*" "" name "${row}")
  add_test(NAME malformed/${name} COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/malformed/run.py $<TARGET_FILE:syl> ${malformed} ${name})
  set_tests_properties(malformed/${name} PROPERTIES FIXTURES_REQUIRED malformed ENVIRONMENT "${environment}")
endforeach()

# Broken passes must fail their tests. Not under sanitizers: it links the plain libraries by itself.
if(NOT SYL_SANITIZE)
  add_test(NAME mutations/passes COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/mutations/run.py ${CMAKE_BINARY_DIR})
  set_tests_properties(mutations/passes PROPERTIES TIMEOUT 300 COST 200 ENVIRONMENT "${environment}") # the longest begins first
endif()

# The verbs that look at things, and compiles that are killed: 10 here, by hand more (docs/testing.md)
add_test(NAME tools/verbs COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/tools.py $<TARGET_FILE:syl> ${work}/tools)
add_test(NAME tools/kill COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/kill.py $<TARGET_FILE:syl> ${work}/kill 10)
set_tests_properties(tools/verbs tools/kill PROPERTIES TIMEOUT 300 ENVIRONMENT "${environment}")

# Logits against NumPy
add_test(NAME golden/random-llama COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/goldens/run.py $<TARGET_FILE:syl> ${work}/golden)
set_tests_properties(golden/random-llama PROPERTIES ENVIRONMENT "${environment}")
add_test(NAME golden/tensors COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/goldens/tensors.py $<TARGET_FILE:syl> ${work}/golden-tensors)
set_tests_properties(golden/tensors PROPERTIES ENVIRONMENT "${environment}" TIMEOUT 300)
# Pictures, a few of the protocol of bench/emoji_psnr.py: not one may come out otherwise in f32, and INT8 may not be seen
add_test(NAME model/emoji-dit-f32 COMMAND ${python} ${CMAKE_SOURCE_DIR}/bench/emoji_psnr.py $<TARGET_FILE:syl> f32 f32-rotated --pictures 4 --at-least 80)
add_test(NAME model/emoji-dit-w8a8 COMMAND ${python} ${CMAKE_SOURCE_DIR}/bench/emoji_psnr.py $<TARGET_FILE:syl> w8a8 --pictures 4 --at-least 48)
set_tests_properties(model/emoji-dit-f32 model/emoji-dit-w8a8 PROPERTIES LABELS model RUN_SERIAL ON TIMEOUT 600 ENVIRONMENT "${environment}")
foreach(name llama mistral qwen2 qwen3)
  add_test(NAME golden/hf-${name} COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/goldens/run_hf.py $<TARGET_FILE:syl> ${work}/golden-hf ${name})
  set_tests_properties(golden/hf-${name} PROPERTIES ENVIRONMENT "${environment}")
endforeach()

# The public API from outside. Sanitizers change what a library exports and what Python can load: there the threads alone.
function(api_test name)
  add_test(NAME api/${name} COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/api/run.py ${name} ${CMAKE_BINARY_DIR} ${work}/api-${name})
  set_tests_properties(api/${name} PROPERTIES ENVIRONMENT "${environment};TSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/api/tsan.txt history_size=4")
endfunction()
api_test(header)
set_tests_properties(api/header PROPERTIES LABELS style)
if(SYL_SHARED AND SYL_SANITIZE)
  api_test(threads)
elseif(SYL_SHARED)
  api_test(symbols)
  api_test(examples)
  api_test(install)
endif()

# The real model: model_test(NAME [SETUP RECIPE] [NEEDS RECIPES...]); SETUP compiles, NEEDS waits for what was compiled
set(gguf ${CMAKE_SOURCE_DIR}/models/SmolLM2-135M-Instruct.Q4_1.gguf)
function(model_test name)
  cmake_parse_arguments(arg "" SETUP "NEEDS;COMMAND" ${ARGN})
  if(NOT arg_COMMAND)
    set(arg_COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/model/run.py $<TARGET_FILE:syl> ${gguf} ${work}/model ${name})
  endif()
  add_test(NAME model/${name} COMMAND ${arg_COMMAND})
  set_tests_properties(model/${name} PROPERTIES LABELS model RUN_SERIAL ON TIMEOUT 600 ENVIRONMENT "${environment}"
                       FIXTURES_SETUP "${arg_SETUP}" FIXTURES_REQUIRED "${arg_NEEDS}")
endfunction()
foreach(recipe f32 w8a8 w8a8-plain f32-rotated)
  model_test(compile-${recipe} SETUP ${recipe})
endforeach()
model_test(logits NEEDS f32 COMMAND ${python} ${CMAKE_CURRENT_SOURCE_DIR}/goldens/run.py $<TARGET_FILE:syl> ${work}/golden-smollm2 ${work}/model/f32.syl)
model_test(perplexity NEEDS f32 w8a8)
model_test(rotations-matter NEEDS f32 w8a8-plain)
model_test(rotations-are-lossless NEEDS f32 f32-rotated)
model_test(determinism NEEDS w8a8)
model_test(safetensors NEEDS f32 w8a8)
model_test(generate NEEDS f32 w8a8)
model_test(round-trip)
model_test(schema)
