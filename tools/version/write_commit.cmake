# Writes the short hash of SOURCE's commit as a header, HEADER; "unknown" where SOURCE is not the top
# of a git work tree. An unchanged header keeps its time, so that nothing is built again.
cmake_minimum_required(VERSION 3.23)
execute_process(COMMAND git -C ${SOURCE} rev-parse --show-prefix
                OUTPUT_VARIABLE prefix OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed
                ERROR_QUIET)
set(commit unknown)
if(failed STREQUAL "0" AND prefix STREQUAL "")
  execute_process(COMMAND git -C ${SOURCE} rev-parse --short=7 HEAD
                  OUTPUT_VARIABLE hash OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed
                  ERROR_QUIET)
  if(failed STREQUAL "0")
    set(commit ${hash})
  endif()
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#define KASCADE_COMMIT \"@commit@\"\n" @ONLY)
