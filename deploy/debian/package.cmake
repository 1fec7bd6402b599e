# A Debian package of the programs, their manual pages and completions, the service and the bundled model:
# ./run package, or cmake --build BUILD --target manual_pages && cpack --config BUILD/CPackConfig.cmake
#
# What only the package has is the install component "debian"; cmake --install leaves it out.
set(KASCADE_MANUAL_FOLDER ${PROJECT_BINARY_DIR}/manual)
add_custom_target(manual_pages
  COMMAND /usr/bin/python3 ${PROJECT_SOURCE_DIR}/tools/manual_pages.py ${PROJECT_VERSION} ${KASCADE_MANUAL_FOLDER}
          $<TARGET_FILE:kascade-server> $<TARGET_FILE:kascade> $<TARGET_FILE:kascade-convert>
          $<TARGET_FILE:kascade-train>
  DEPENDS kascade-server kascade kascade-convert kascade-train
  VERBATIM)

set(KASCADE_DEBIAN_FOLDER ${CMAKE_CURRENT_LIST_DIR})
function(install_for_debian)
  install(${ARGN} COMPONENT debian EXCLUDE_FROM_ALL)
endfunction()
install_for_debian(DIRECTORY ${KASCADE_MANUAL_FOLDER}/ DESTINATION ${CMAKE_INSTALL_DATADIR})
install_for_debian(DIRECTORY models/demo DESTINATION ${CMAKE_INSTALL_DATADIR}/kascade/models)
install_for_debian(FILES ${KASCADE_DEBIAN_FOLDER}/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR})
install_for_debian(FILES ${PROJECT_BINARY_DIR}/debian/changelog.Debian.gz DESTINATION ${CMAKE_INSTALL_DOCDIR})
install_for_debian(FILES ${PROJECT_SOURCE_DIR}/deploy/systemd/kascade-server.service DESTINATION /lib/systemd/system)
install_for_debian(FILES ${PROJECT_SOURCE_DIR}/deploy/systemd/server.toml DESTINATION /etc/kascade)

# The changelog of the package, dated by the commit, so that a package can be built twice.
set(KASCADE_PACKAGE_DATE "Thu, 01 Jan 1970 00:00:00 +0000")
execute_process(COMMAND git -C ${PROJECT_SOURCE_DIR} log -1 --format=%cD OUTPUT_VARIABLE date ERROR_QUIET
                OUTPUT_STRIP_TRAILING_WHITESPACE)
if(date)
  set(KASCADE_PACKAGE_DATE ${date})
endif()
configure_file(${KASCADE_DEBIAN_FOLDER}/changelog.in ${PROJECT_BINARY_DIR}/debian/changelog.Debian @ONLY)
execute_process(COMMAND gzip --best --no-name --force ${PROJECT_BINARY_DIR}/debian/changelog.Debian)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME kascade-serve)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "The Kascade Serve authors <kascade-serve@example.org>")
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION misc)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)  # the libraries; it reads them from the programs
set(CPACK_DEBIAN_PACKAGE_DEPENDS adduser)
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"inference server for Llama models with sparse attention
Serves a model of the Llama family over gRPC on CPUs, with attention that is
dense or follows a calibrated schedule (Kascade). Comes with a client, a
converter of checkpoints, a systemd service and a small model.")
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
    ${KASCADE_DEBIAN_FOLDER}/postinst ${KASCADE_DEBIAN_FOLDER}/prerm ${KASCADE_DEBIAN_FOLDER}/postrm
    ${KASCADE_DEBIAN_FOLDER}/conffiles)
set(CPACK_INSTALL_CMAKE_PROJECTS
    "${PROJECT_BINARY_DIR};kascade_serve;Unspecified;/;${PROJECT_BINARY_DIR};kascade_serve;debian;/")
include(CPack)
